"""Pictures and pages of what is known, for people."""
