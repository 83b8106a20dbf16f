"""What each filter means, said once more, of one row; and values to ask for."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from dbos_mcp.store.projections.workflow_counts import DAY_MS
from tests.store.factories import BORN

Row = Mapping[str, Any]
"""The columns of a workflow, and its `steps`."""

IDS = ["a", "A", "a-1", "a-2", "ab%", "a_b", "b", "", "z\U0010ffff", "\ud7ff!", "\x00"]
STATUSES = ["PENDING", "ENQUEUED", "SUCCESS", "ERROR", "CANCELLED", "NEW"]
NAMES = ["pay", "ship", "it's", '"', "100%", "a\x00b"]
ERRORS = ["KeyError: 'BT'", "100% full", "a_b", "keyerror", "a\x00B", "x\\y", ""]
KEYS = ["customer", "a.b", "$", '"', "", "é"]
SCALARS = [None, True, False, 0, 1, 1.0, 2.5, "1", "true", "", "acme", 'a"b', "é", "a\nb"]
DAY = BORN - BORN % DAY_MS
OTHER_TIMES = [-DAY_MS - 1, -DAY_MS, -1, 0, DAY - 1, DAY, DAY + DAY_MS, 253_402_300_799_999]
"""Of other days than that of the most: around its ends, before the epoch, in the year 9999."""
TIMES = [BORN - 5, BORN, BORN + 1, BORN + 3, BORN + 10, *OTHER_TIMES]
WAITS = [0, 1, 2, 9, 100]


def _one_of(column: str) -> Callable[[Row, Any], bool]:
    return lambda row, values: not values or row[column] in values


def _at_least(column: str) -> Callable[[Row, Any], bool]:
    return lambda row, bound: row[column] is not None and row[column] >= bound


def _at_most(column: str) -> Callable[[Row, Any], bool]:
    return lambda row, bound: row[column] is not None and row[column] <= bound


def _is_there(column: str) -> Callable[[Row, Any], bool]:
    return lambda row, there: (row[column] is not None) == there


def duration(row: Row) -> int | None:
    if row["completed_at"] is None:
        return None
    start = row["created_at"] if row["dequeued_at"] is None else row["dequeued_at"]
    return max(0, int(row["completed_at"]) - int(start))


def queue_wait(row: Row) -> int | None:
    return None if row["dequeued_at"] is None else max(0, row["dequeued_at"] - row["created_at"])


def _was_active(row: Row, at: int) -> bool:
    if row["created_at"] > at:
        return False
    if row["completed_at"] is not None:
        return bool(row["completed_at"] >= at)
    in_flight = row["status"] in ("PENDING", "ENQUEUED", "DELAYED")
    return (in_flight or row["updated_at"] >= at) and (
        row["deleted_at"] is None or row["deleted_at"] >= at
    )


def _has_attributes(row: Row, pairs: Sequence[tuple[str, Any]]) -> bool:
    if not pairs:
        return True
    try:
        held = json.loads(row["attributes"] or "")
    except ValueError:
        return False
    return isinstance(held, dict) and all(
        key in held and _is_same(held[key], value) for key, value in pairs
    )


def _is_same(one: Any, other: Any) -> bool:
    """In JSON true is not 1, but 1 is 1.0."""
    numbers = all(type(value) in (int, float) for value in (one, other))
    return (numbers or type(one) is type(other)) and bool(one == other)


def _lowered(text: str) -> str:
    return "".join(c.lower() if c.isascii() else c for c in text)


PREDICATES: dict[str, Callable[[Row, Any], bool]] = {
    name: _one_of(name)
    for name in (
        *("workflow_id", "workflow_name", "status", "queue_name", "executor_id"),
        *("application_version", "authenticated_user", "parent_workflow_id", "forked_from"),
        "schedule_name",
    )
} | {
    "workflow_id_prefix": lambda row, values: (
        not values or any(row["workflow_id"].startswith(value) for value in values)
    ),
    "start_time": _at_least("created_at"),
    "end_time": _at_most("created_at"),
    "completed_after": _at_least("completed_at"),
    "completed_before": _at_most("completed_at"),
    "dequeued_after": _at_least("dequeued_at"),
    "dequeued_before": _at_most("dequeued_at"),
    "min_duration": lambda row, bound: (duration(row) or 0) >= bound and duration(row) is not None,
    "max_duration": lambda row, bound: (duration(row) or 0) <= bound and duration(row) is not None,
    "min_queue_wait": lambda row, bound: (
        (queue_wait(row) or 0) >= bound and queue_wait(row) is not None
    ),
    "max_queue_wait": lambda row, bound: (
        (queue_wait(row) or 0) <= bound and queue_wait(row) is not None
    ),
    "has_parent": _is_there("parent_workflow_id"),
    "was_forked_from": lambda row, value: bool(row["was_forked_from"]) == value,
    "queues_only": lambda row, value: (
        not value
        or (row["queue_name"] is not None and row["status"] in ("PENDING", "ENQUEUED", "DELAYED"))
    ),
    "attributes": _has_attributes,
    "active_at": _was_active,
    "error_contains": lambda row, text: (
        not text or (row["error"] is not None and _lowered(text) in _lowered(row["error"]))
    ),
    "has_failed_step": lambda row, value: any(row["steps"].values()) == value,
    "step_name": lambda row, values: not values or any(name in values for name in row["steps"]),
    "deleted_upstream": lambda row, value: (row["deleted_at"] is not None) == value,
}


def matches(row: Row, filters: Mapping[str, Any]) -> bool:
    asked = {name: value for name, value in filters.items() if value is not None}
    if asked.get("queues_only") and asked.get("status"):
        del asked["queues_only"]
        if row["queue_name"] is None:
            return False
    return all(PREDICATES[name](row, value) for name, value in asked.items())


def _some_of(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    return st.lists(st.sampled_from(values), max_size=3).map(tuple)


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "workflow_id": _some_of(IDS),
    "workflow_id_prefix": _some_of([text for text in IDS if text]),
    "status": _some_of(STATUSES),
    "step_name": _some_of(NAMES),
    "attributes": st.lists(
        st.tuples(st.sampled_from(KEYS), st.sampled_from(SCALARS)), max_size=2
    ).map(tuple),
    "error_contains": st.sampled_from([*ERRORS, "KEY", "%", "_", "b", "\x00", "é"]),
    **{
        name: _some_of(NAMES)
        for name in (
            *("workflow_name", "queue_name", "executor_id", "application_version"),
            *("authenticated_user", "parent_workflow_id", "forked_from", "schedule_name"),
        )
    },
    **{
        name: st.sampled_from(TIMES)
        for name in (
            *("start_time", "end_time", "completed_after", "completed_before"),
            *("dequeued_after", "dequeued_before", "active_at"),
        )
    },
    **{
        name: st.sampled_from(WAITS)
        for name in ("min_duration", "max_duration", "min_queue_wait", "max_queue_wait")
    },
    **{
        name: st.booleans()
        for name in (
            *("has_parent", "was_forked_from", "queues_only", "has_failed_step"),
            "deleted_upstream",
        )
    },
}
