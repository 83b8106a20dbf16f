"""Datasette's metadata for a cache file: what the views mean, and the examples as its queries."""

import re
from pathlib import Path
from typing import Any

from sqlmodel import SQLModel

from dbos_mcp.inspection.examples import EXAMPLES
from dbos_mcp.inspection.views import VIEWS

_CLAUSE = re.compile(" (?=FROM|WHERE|AND|GROUP|HAVING|ORDER)")
"""Begins a line of its own: Datasette shows a statement as it is written."""


def metadata(cache: Path) -> dict[str, Any]:
    """Tables of the cache are not listed there; they are no part of its public schema."""
    hidden = {name: {"hidden": True} for name in (*SQLModel.metadata.tables, "alembic_version")}
    views = {
        view.name: {
            "description": view.meaning,
            "columns": {column.name: column.meaning for column in view.columns},
        }
        for view in VIEWS
    }
    queries = {
        example.name: {
            "title": example.question,
            "description": ", ".join(f"{k}, such as {v}" for k, v in example.parameters.items()),
            "sql": _CLAUSE.sub("\n", example.sql),
            "params": ["application_name", *example.parameters],
        }
        for example in EXAMPLES
    }
    about = {"tables": hidden | views, "queries": queries}
    return {"title": "DBOS workflows", "databases": {cache.stem: about}}
