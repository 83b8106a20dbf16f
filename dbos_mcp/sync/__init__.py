"""Upstream → events: look, compare, record. The only place where Conductor and the cache meet."""
