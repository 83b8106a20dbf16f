"""The mirror's own description: what is in its views, and all kinds of events, as they are."""

from sqlalchemy import Connection

from dbos_mcp.inspection import schema
from dbos_mcp.inspection.views import VIEWS
from dbos_mcp.store.events import KINDS, WorkflowState


def test_what_a_mirror_holds_is_counted(connection: Connection) -> None:
    told = {each.view.name: each for each in schema.views(connection)}
    assert told.keys() == {view.name for view in VIEWS}
    for name, each in told.items():
        counted = connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one()
        assert each.rows == counted, name


def test_the_values_of_a_column_are_those_that_it_holds(connection: Connection) -> None:
    told = {each.view.name: each.values for each in schema.views(connection)}
    for name, values in told.items():
        for column, listed in values.items():
            if column == "kind":
                continue
            held = connection.exec_driver_sql(
                f"SELECT DISTINCT {column} FROM {name} WHERE {column} IS NOT NULL ORDER BY 1"
            )
            assert [*listed] == [*held.scalars()][: schema.MOST_VALUES], (name, column)
    assert told["events"]["kind"] == [*KINDS]
    assert {"SUCCESS", "ERROR", "CANCELLED"} <= set(told["workflows"]["status"])


def test_every_kind_of_event_is_told_with_its_data() -> None:
    told = {event.kind: event for event in schema.events()}
    assert told.keys() == KINDS.keys()
    assert "Seen again, different." in told["WorkflowChanged"].meaning
    assert set(told["WorkflowChanged"].fields) >= {*WorkflowState.PAYLOAD, "status"}
    assert told["WorkflowDeleted"].fields == []
    assert "application_name" not in told["CommandIssued"].fields
