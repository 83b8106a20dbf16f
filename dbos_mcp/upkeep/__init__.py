"""What is done to a cache file as a whole: looked through, restored, pruned."""
