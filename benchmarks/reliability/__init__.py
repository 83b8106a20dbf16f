"""What must hold however often it is tried, and controls that must not."""
