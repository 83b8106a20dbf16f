"""The mirror's own description: all of its tables and kinds of events, as they are."""

from sqlalchemy import Connection

from dbos_mcp.queries import schema
from dbos_mcp.store.events import KINDS, WorkflowState


def test_every_column_that_a_table_has_is_told(connection: Connection) -> None:
    for table in schema.tables():
        rows = connection.exec_driver_sql(f"PRAGMA table_info({table.name})").all()
        told = {tuple(column.split()[:2]) for column in table.columns}
        assert told == {(row[1], row[2]) for row in rows}
        assert table.meaning, table


def test_what_is_told_of_a_table_is_what_its_definition_says() -> None:
    told = {table.name: table for table in schema.tables()}
    assert [*told] == [
        *("event", "application", "executor", "workflow", "workflow_count", "step", "command"),
    ]
    assert told["workflow"].meaning.startswith("The newest known state of every workflow")
    assert "`observed_at` and `deleted_at` our clock" in told["workflow"].meaning
    assert "workflow_key INTEGER key → workflow.id" in told["step"].columns
    assert "status VARCHAR not null" in told["workflow"].columns


def test_every_kind_of_event_is_told_with_its_data() -> None:
    told = {event.kind: event for event in schema.events()}
    assert told.keys() == KINDS.keys()
    assert "Seen again, different." in told["WorkflowChanged"].meaning
    assert set(told["WorkflowChanged"].fields) >= {*WorkflowState.PAYLOAD, "status"}
    assert told["WorkflowDeleted"].fields == []
    assert "application_name" not in told["CommandIssued"].fields
