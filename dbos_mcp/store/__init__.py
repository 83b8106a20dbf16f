"""Events → read models, in one SQLite file: the cache."""
