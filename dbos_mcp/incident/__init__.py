"""Part of a mirror as a small file for a colleague: what is chosen, and what leaves the machine."""

LIMIT = 5_000
