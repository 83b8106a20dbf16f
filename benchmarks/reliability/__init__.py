"""What happens to the cache when processes, disks and machines fail, at full size."""
