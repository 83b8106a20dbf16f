"""What belongs to an incident, and how it is said what does not."""

from pathlib import Path

import pytest

from dbos_mcp.errors import NotFoundError, UsageError
from dbos_mcp.incident.selection import Selection, select_since, select_workflow
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import ApplicationObserved
from tests.incident.conftest import HOUR, NOW, SECRET, STRANGER, opened
from tests.store.conftest import blank_cache, cache
from tests.store.factories import BORN, observed
from tests.upstream import APP

__all__ = ["blank_cache", "cache"]  # fixtures


def ids(selection: Selection, mirror: Path) -> list[str]:
    """In the order in which they were chosen."""
    with opened(mirror) as connection:
        known = dict(connection.exec_driver_sql("SELECT id, workflow_id FROM workflow").all())
    return [known[key] for keys in selection.keys.values() for key in keys]


def of(mirror: Path, workflow_id: str, **options: int) -> tuple[Selection, set[str]]:
    with opened(mirror) as connection:
        selection = select_workflow(connection, None, workflow_id, **options)
    return selection, set(ids(selection, mirror))


def test_a_workflow_comes_with_its_family_its_like_and_others_to_compare_with(mirror: Path) -> None:
    selection, chosen = of(mirror, "pay")
    assert chosen == {
        *("pay", "pay-child", "pay-waiting", "pay-fork"),
        *("paid-0", "paid-1", "paid-2"),
    }
    assert selection.parts == {
        "workflow": 1,
        "ancestors": 0,
        "fork sources and forks": 1,
        "descendants": 2,
        "failures of the same cause": 0,
        "successful runs to compare with": 3,
    }
    assert selection.left_out == []


def test_a_failure_comes_with_those_of_the_same_cause_within_a_day(mirror: Path) -> None:
    _, chosen = of(mirror, "pay-source")
    assert {"pay-source", f"pay-{SECRET}"} <= chosen
    assert not {"pay", "pay-child", "long-ago", STRANGER} & chosen


def test_a_child_comes_with_its_ancestors(mirror: Path) -> None:
    _, chosen = of(mirror, "order-1005-5-4")
    assert {"order-1005", "order-1005-5", "order-1005-5-4", "order-1010-5-4"} <= chosen
    # So do those that it is compared with: what they were given is what theirs were given.
    peers = {workflow_id for workflow_id in chosen if workflow_id.endswith("-5-4")}
    assert len(peers) > 9
    assert {workflow_id.removesuffix("-5-4") for workflow_id in peers} <= chosen


def test_ids_that_go_round_in_a_circle_come_to_an_end(mirror: Path) -> None:
    _, chosen = of(mirror, "round-1")
    assert {"round-1", "round-2"} <= chosen


def test_what_is_too_much_is_said(mirror: Path) -> None:
    selection, chosen = of(mirror, "pay", limit=4)
    assert chosen == {"pay", "pay-fork", "pay-child", "pay-waiting"}
    assert selection.left_out == ["3 of the successful runs to compare with"]


def test_since_a_time_failures_come_first_and_the_newest_of_the_rest(mirror: Path) -> None:
    with opened(mirror) as connection:
        everything = select_since(connection, APP, NOW - 5 * HOUR)
        few = select_since(connection, APP, NOW - 5 * HOUR, limit=3)
        failed = connection.exec_driver_sql(
            "SELECT count(*) FROM workflow WHERE status = 'ERROR' AND workflow_id != 'long-ago'"
        ).scalar_one()
    assert everything.parts["failures"] == failed
    assert "long-ago" not in ids(everything, mirror)
    assert STRANGER in ids(everything, mirror)
    assert everything.left_out == []
    first = ids(few, mirror)[:3]
    assert set(first) <= set(ids(everything, mirror)[:failed])
    assert few.left_out[0] == f"{failed - 3} of the failures"
    assert few.parts["others"] == 0


def test_what_is_not_there_is_not_found(mirror: Path) -> None:
    with opened(mirror) as connection:
        with pytest.raises(NotFoundError, match="No workflow 'nothing' is mirrored"):
            select_workflow(connection, None, "nothing")
        with pytest.raises(NotFoundError, match="No application 'shopp'"):
            select_workflow(connection, "shopp", "pay")


def test_an_id_of_two_applications_needs_the_name_of_one(cache: Cache) -> None:
    with cache.write() as connection:
        projector.record(
            connection,
            [
                event
                for name in ("shop", "depot")
                for event in (
                    ApplicationObserved(application_name=name, application_id=name, status="up"),
                    observed(application_name=name, status="SUCCESS"),
                )
            ],
            recorded_at=BORN,
        )
    with cache.read() as connection:
        with pytest.raises(UsageError, match="Several applications"):
            select_workflow(connection, None, "order-1")
        chosen = select_workflow(connection, "depot", "order-1")
        with pytest.raises(NotFoundError, match="Nothing happened in all applications since"):
            select_since(connection, None, BORN + 1)
    assert {name: len(keys) for name, keys in chosen.keys.items()} == {"depot": 1}
