"""What is wrong with a target, from the way to Conductor to the cache, and what to do about it."""
