"""The mirror of a shop that the questions are asked of, too."""

from tests.queries.conftest import connection, mirrored

__all__ = ["connection", "mirrored"]
