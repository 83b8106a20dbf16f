"""What is done to a cache file."""

import sys

import typer

from dbos_mcp.cli.options import existing_cache
from dbos_mcp.cli.terminal import err, out
from dbos_mcp.store import projector
from dbos_mcp.store.migrate import open_cache


def rebuild(context: typer.Context) -> None:
    """Fold the read models from the event log again, and say whether they came out equal."""
    cache = open_cache(existing_cache(context.obj.target()))
    try:
        with cache.write() as connection:
            tables = projector.rebuild(connection)
    finally:
        cache.close()
    for table in tables:
        verdict = "equal to the live ones" if table.equal else "DIFFERENT from the live ones"
        out.print(f"{table.table}: {table.rows} rows, {verdict}")
    if not all(table.equal for table in tables):
        err.print("The rebuilt rows are kept: the log is the truth. Please report this.")
        sys.exit(1)
