"""Upstream: what Conductor says, and how to ask."""
