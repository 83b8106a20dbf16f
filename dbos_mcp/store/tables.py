"""What the libraries leave out: the type of a class's table, and writing many rows fast."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.expression import UpdateBase
from sqlmodel import SQLModel

T = TypeVar("T")

AT_ONCE = 500


def table_of(model: type[SQLModel]) -> Table:
    table: Any = vars(model)["__table__"]
    assert isinstance(table, Table)
    return table


def batches(values: Iterable[T], size: int = AT_ONCE) -> Iterator[list[T]]:
    """Few enough at a time for one statement."""
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch


class RowStatement:
    """A statement that is run once for each row, whose values are what the driver stores.

    SQLAlchemy prepares every value of every row by itself, which takes longer than SQLite takes to
    store them; here that is done once for the statement.
    """

    def __init__(self, statement: UpdateBase) -> None:
        compiled = statement.compile(dialect=sqlite.dialect())
        self._sql = str(compiled)
        self._values = itemgetter(*(compiled.positiontup or ()))

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it for each row; names that it does not know are left out."""
        if rows:
            connection.exec_driver_sql(self._sql, [self._values(row) for row in rows])
