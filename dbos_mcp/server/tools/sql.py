"""The mirror by SQL, and what there is to ask."""

from typing import Annotated, Any, Literal

from pydantic import Field

from dbos_mcp.server.context import RuntimeForAll

MOST_ROWS = 500


async def query_sql(
    runtime: RuntimeForAll,
    sql: str,
    params: Annotated[dict[str, Any] | None, Field(description="For :name")] = None,
    limit: Annotated[int, Field(ge=1, le=MOST_ROWS)] = 50,
    format: Literal["table", "json"] = "table",
) -> str:
    """Run one SQLite SELECT over the mirror's views; describe_schema first. Compare times by _ms
    columns; indexes begin with application_name."""
    from dbos_mcp.server.answers import sql as answers

    return await answers.query_sql(runtime, sql, params=params, limit=limit, format=format)


async def describe_schema(runtime: RuntimeForAll, view: str | None = None) -> str:
    """Tell what query_sql reads: views, columns, rows, frequent values, eight example statements;
    of one view, what each column means."""
    from dbos_mcp.server.answers import sql as answers

    return await answers.describe_schema(runtime, view=view)
