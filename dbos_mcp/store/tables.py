"""SQLModel gives its classes a table and no type for it; this does."""

from typing import Any

from sqlalchemy import Table
from sqlmodel import SQLModel


def table_of(model: type[SQLModel]) -> Table:
    table: Any = vars(model)["__table__"]
    assert isinstance(table, Table)
    return table
