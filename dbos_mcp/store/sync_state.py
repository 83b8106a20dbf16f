"""What the sync worker knows of itself: how far it has seen, and whether upstream answers.

These are not facts about Conductor, so they are plain tables and no events.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Connection, Index, select
from sqlalchemy.dialects.sqlite import insert
from sqlmodel import Field, SQLModel, col

from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.errors import StoreError
from dbos_mcp.store.tables import table_of


class SyncStateRow(SQLModel, table=True):
    """One application's place. All times are epoch milliseconds: those of workflows by upstream's
    clock, those of what we did (`…_at`, `offline_since`) by ours."""

    __tablename__ = "sync_state"

    application_name: str = Field(primary_key=True)
    watermark: int | None = None
    """Every workflow created before it was seen; the next look starts here."""
    ended_watermark: int | None = None
    """Every end of a workflow before it was seen."""
    dequeued_watermark: int | None = None
    """Every start of a queued workflow before it was seen."""
    covered_since: int | None = None
    """The mirror is complete from this creation time on; it walks back during the first load."""
    history_complete: bool = False
    """The first load has reached as far back as it was asked to."""
    steps_since: int | None = None
    """The steps of every workflow that was created from here on and has ended were read, or are in
    `step_due`; it walks back through the mirror."""
    attempted_at: int | None = None
    succeeded_at: int | None = None
    offline_since: int | None = None
    last_error: str | None = None
    login_needed: bool = False
    """That error was a refusal of the credentials."""
    next_at: int | None = None
    """When the syncing process will look next; None: once somebody asks."""
    requests: int = 0
    failed_requests: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    audited_at: int | None = None
    """When the last audit came to its end."""
    audit_found: int = 0
    """How many events audits and re-reads have led to."""
    audit_cursor: int | None = None
    """An audit that is under way has compared everything created from here on (upstream's clock);
    it goes on downwards."""
    reread_position: int | None = None
    """The re-read of everything by id goes on behind this workflow row."""
    reread_began_at: int | None = None
    reread_at: int | None = None
    """When the last share of it was read."""
    excerpt: str | None = None
    """In an incident file: what it holds of the mirror that it was made of, as an `Excerpt`."""

    @property
    def excerpt_of(self) -> "Excerpt | None":
        return Excerpt.of(self.excerpt)


class Excerpt(BaseModel):
    """What an incident file holds, and what it lacks. Times are epoch milliseconds by the clock of
    whoever made it."""

    model_config = ConfigDict(frozen=True)

    made_at: int
    version: str
    """Of dbos-mcp."""
    subject: str
    """What was asked for."""
    workflows: int
    of_workflows: int
    """How many the mirror had."""
    left_out: tuple[str, ...] = ()
    """What belongs to the subject and was too much."""
    payloads: bool = False
    """Whether inputs and outputs came along, where the mirror had them."""
    first_looked_at: int | None = None
    """When the mirror saw its first workflow: what came before was never seen."""

    @classmethod
    def of(cls, kept: str | None) -> "Excerpt | None":
        """As it is kept in `sync_state`.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            return None if kept is None else cls.model_validate_json(kept)
        except ValidationError as error:
            raise StoreError(
                "What this incident file says of itself cannot be read: it is damaged, or of"
                " another version.",
                hint="Ask for it again, or try `uvx dbos-mcp@latest`.",
            ) from error


class StepReadingRow(SQLModel, table=True):
    """When a workflow's steps were read, and which state of the workflow they belong to."""

    __tablename__ = "step_reading"

    workflow_key: int = Field(primary_key=True)
    read_at: int
    workflow_status: str
    workflow_updated_at: int
    next_at: int | None = None
    """When to read them again; None: not before the workflow changes."""


class StepDueRow(SQLModel, table=True):
    """A workflow whose steps are to be read, and since or from when (our clock, epoch ms)."""

    __tablename__ = "step_due"
    __table_args__ = (Index("ix_step_due", "application_name", "priority", "due_at"),)

    workflow_key: int = Field(primary_key=True)
    application_name: str
    priority: int
    due_at: int


class AttentionRow(SQLModel, table=True):
    """When somebody last asked about an application; the row of `CONDUCTOR` is about all."""

    __tablename__ = "attention"

    application_name: str = Field(primary_key=True)
    asked_at: int


class RedactionRow(SQLModel, table=True):
    """How many secrets of a kind were taken out of what was recorded of an application."""

    __tablename__ = "redaction"

    application_name: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    count: int


def load(connection: Connection, application_name: str) -> SyncStateRow:
    """The state of an application, a blank one when nothing is known yet."""
    row = connection.execute(
        select(table_of(SyncStateRow)).where(col(SyncStateRow.application_name) == application_name)
    ).first()
    if row is None:
        return SyncStateRow(application_name=application_name)
    return SyncStateRow(**row._mapping)


def update(
    connection: Connection, application_name: str, changes: Mapping[str, int | bool | str | None]
) -> None:
    """Change some of an application's state; what others change meanwhile stays theirs."""
    values = SyncStateRow(application_name=application_name).model_dump() | dict(changes)
    statement = insert(SyncStateRow).values(values)
    connection.execute(
        statement.on_conflict_do_update(index_elements=["application_name"], set_=dict(changes))
        if changes
        else statement.on_conflict_do_nothing()
    )


def load_all(connection: Connection) -> dict[str, SyncStateRow]:
    """By application name, with the row of `CONDUCTOR`."""
    rows = connection.execute(select(table_of(SyncStateRow)))
    return {row.application_name: SyncStateRow(**row._mapping) for row in rows}


def add(connection: Connection, application_name: str, amounts: Mapping[str, int]) -> None:
    """Add to the counters of an application."""
    update(connection, application_name, {})
    table = table_of(SyncStateRow)
    connection.execute(
        table.update()
        .where(table.c.application_name == application_name)
        .values({name: table.c[name] + amount for name, amount in amounts.items()})
    )


def note_question(connection: Connection, application_name: str, asked_at: int) -> None:
    """Somebody asked about an application; about all, if it is `CONDUCTOR`."""
    values = {"application_name": application_name, "asked_at": asked_at}
    connection.execute(
        insert(AttentionRow)
        .values(values)
        .on_conflict_do_update(index_elements=["application_name"], set_={"asked_at": asked_at})
    )


def stay_awake(connection: Connection, asked_at: int) -> None:
    """As if somebody had asked about all of them then, unless somebody has since."""
    statement = insert(AttentionRow).values(application_name=CONDUCTOR, asked_at=asked_at)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["application_name"],
            set_={"asked_at": asked_at},
            where=table_of(AttentionRow).c.asked_at < asked_at,
        )
    )


def questions(connection: Connection) -> dict[str, int]:
    """When somebody last asked, by application name."""
    rows = connection.execute(select(table_of(AttentionRow)))
    return {row.application_name: row.asked_at for row in rows}


def add_redactions(connection: Connection, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Of each application, so many more of each kind."""
    rows = [
        {"application_name": name, "kind": kind, "count": count}
        for name, kinds in counts.items()
        for kind, count in kinds.items()
    ]
    if rows:
        table = table_of(RedactionRow)
        statement = insert(table)
        more = table.c["count"] + statement.excluded["count"]
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["application_name", "kind"], set_={"count": more}
            ),
            rows,
        )


def redactions(connection: Connection) -> dict[str, dict[str, int]]:
    """How many of each kind, by application name."""
    found: dict[str, dict[str, int]] = {}
    for name, kind, count in connection.execute(select(table_of(RedactionRow))):
        found.setdefault(name, {})[kind] = count
    return found
