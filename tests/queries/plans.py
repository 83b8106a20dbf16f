"""Which way SQLite goes for each statement of a question."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, event


def plans_of(connection: Connection, question: Callable[[Connection], object]) -> list[str]:
    """A line for each step of each statement's plan."""
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        question(connection)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return [
        row[3]
        for statement, parameters in statements
        for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    ]
