"""Read models → answers. Nothing here knows of Conductor; every answer is of one snapshot."""
