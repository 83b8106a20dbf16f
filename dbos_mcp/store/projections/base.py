"""What a projection is: a name, the tables it owns, and how a batch of events changes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlmodel import Field, SQLModel

from dbos_mcp.store.event_log import Recorded


@dataclass(frozen=True)
class Projection:
    """`apply` gets events in the order of the log and must depend on nothing but them and the
    tables. A higher `version` makes every cache rebuild the tables when it is next opened."""

    name: str
    version: int
    tables: tuple[type[SQLModel], ...]
    apply: Callable[[Connection, Sequence[Recorded]], None]


class CheckpointRow(SQLModel, table=True):
    """How far, and by which version of its code, a projection has folded the log."""

    __tablename__ = "projection_checkpoint"

    name: str = Field(primary_key=True)
    version: int
    position: int
