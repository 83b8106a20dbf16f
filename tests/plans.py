"""What a question asks of SQLite, and which way SQLite goes for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

Statement = tuple[str, Any]
"""Its text and its parameters."""


@contextmanager
def statements_asked() -> Iterator[list[Statement]]:
    """Those of any engine, while the context is open."""
    asked: list[Statement] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def plan_of(connection: Connection, asked: Statement) -> list[str]:
    """A line for each step of a statement's plan."""
    statement, parameters = asked
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    return [row[3] for row in plan]


def plans_of(connection: Connection, question: Callable[[Connection], object]) -> list[str]:
    """A line for each step of each statement's plan."""
    with statements_asked() as asked:
        question(connection)
    return [line for each in asked for line in plan_of(connection, each)]
