"""The mirror by SQL: what may be read, and the box in which statements run."""
