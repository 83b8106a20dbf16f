"""Timelines to draw: read from a cache that holds just what an event log may hold."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import Connection, insert, select
from sqlmodel import col

from dbos_mcp.postmortem.timeline import MOST_LANES, Timeline, read_timeline
from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import ApplicationObserved, Event, StepsObserved, StepState
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepReadingRow
from tests.store.factories import changed, observed

APP = "shop"
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
NOON = 1_795_262_400_000
"""2026-11-21, 12:00 in UTC."""


@dataclass
class Told:
    """A workflow, the states in which it was seen, and its steps."""

    workflow_id: str
    states: Sequence[Mapping[str, Any]]
    steps: Sequence[StepState] = ()
    read: bool = True


@dataclass
class Scene:
    """What is to be in a cache."""

    workflows: list[Told] = field(default_factory=list)

    def add(self, workflow_id: str, *steps: StepState, read: bool = True, **state: Any) -> "Scene":
        states = [*state.pop("before", []), state]
        self.workflows.append(Told(workflow_id, states, steps, read))
        return self

    def record(self, connection: Connection) -> None:
        def record(*events: Event) -> None:
            projector.record(connection, events, recorded_at=NOON)

        record(ApplicationObserved(application_name=APP, application_id="1", status="UP"))
        for told in self.workflows:
            for place, state in enumerate(told.states):
                seen = changed if place else observed
                record(seen(told.workflow_id, **{"updated_at": NOON, **state}))
            if told.read:
                record(
                    StepsObserved(
                        application_name=APP,
                        workflow_id=told.workflow_id,
                        steps=tuple(told.steps),
                    )
                )
                _note_reading(connection, told.workflow_id)

    def timeline(self, cache: Cache, workflow_id: str, *, now: int = NOON) -> Timeline:
        with cache.write() as connection:
            self.record(connection)
        with cache.read() as connection:
            return read_timeline(connection, APP, workflow_id, now=now)

    def unsaved(self, cache: Cache, *, now: int = NOON, most: int = MOST_LANES) -> list[Timeline]:
        """Of each workflow; the cache stays as it was."""
        found = []
        with suppress(_NotToBeSavedError), cache.write() as connection:
            self.record(connection)
            found = [
                read_timeline(connection, APP, told.workflow_id, now=now, most=most)
                for told in self.workflows
            ]
            raise _NotToBeSavedError
        return found


class _NotToBeSavedError(Exception):
    pass


def _note_reading(connection: Connection, workflow_id: str) -> None:
    key = connection.execute(
        select(col(WorkflowRow.id)).where(col(WorkflowRow.workflow_id) == workflow_id)
    ).scalar_one()
    connection.execute(
        insert(StepReadingRow).values(
            workflow_key=key, read_at=NOON, workflow_status="ERROR", workflow_updated_at=NOON
        )
    )


def step(step_id: int, name: str, start: int | None, took: int | None, **more: Any) -> StepState:
    end = None if start is None or took is None else start + took
    return StepState(step_id=step_id, step_name=name, started_at=start, completed_at=end, **more)


def child(
    step_id: int, name: str, start: int, ended: int, child_id: str, error: str | None = None
) -> Iterable[StepState]:
    """The two rows of a child that was started and awaited."""
    awaited = {"child_workflow_id": child_id, "error": error}
    return (
        step(step_id, name, start, 12, child_workflow_id=child_id),
        step(step_id + 1, "DBOS.getResult", start + 15, ended - start - 15, **awaited),
    )


def checkout() -> Scene:
    """An order whose payment failed three levels below it, after a night in a queue."""
    begun = NOON - 11 * HOUR
    paid = begun + 9 * HOUR
    late = "InsufficientFundsError: card 4242 declined by the bank (code 51)"
    return (
        Scene()
        .add(
            "checkout-8f31",
            step(1, "validate_cart", begun + 40, 320),
            step(2, "reserve_stock", begun + 380, 1_450),
            *child(3, "charge_customer", begun + 1_900, paid + 9_000, "checkout-8f31-3", late),
            step(5, "release_stock", paid + 9_100, 900),
            status="ERROR", workflow_name="checkout", created_at=begun,
            completed_at=paid + 10_100, error=late, executor_id="web-1",
        )
        .add(
            "checkout-8f31-3",
            step(1, "load_account", begun + 4 * HOUR + 50, 210),
            step(2, "DBOS.sleep", begun + 4 * HOUR + 300, 5 * HOUR - 2_000),
            *child(3, "fraud_check", paid - 1_500, paid + 800, "fraud-77"),
            *child(5, "post_payment", paid + 1_000, paid + 8_600, "post-payment-77", late),
            status="ERROR", workflow_name="charge_customer", created_at=begun + 1_910,
            dequeued_at=begun + 4 * HOUR, completed_at=paid + 8_800, error=late,
            parent_workflow_id="checkout-8f31", queue_name="payments", executor_id="worker-4",
        )
        .add(
            "fraud-77",
            step(1, "score", paid - 1_300, 1_700),
            step(2, "store_score", paid + 450, 180),
            status="SUCCESS", workflow_name="fraud_check", created_at=paid - 1_480,
            completed_at=paid + 700, parent_workflow_id="checkout-8f31-3", executor_id="worker-4",
        )
        .add(
            "post-payment-77",
            step(1, "format_amount", paid + 1_500, 240),
            step(2, "post_to_ledger", paid + 3_800, 4_600, error=late),
            before=[{
                "status": "PENDING", "workflow_name": "post_payment", "created_at": paid + 1_050,
                "dequeued_at": paid + 1_400, "queue_name": "ledger", "executor_id": "worker-4",
                "parent_workflow_id": "checkout-8f31-3",
            }],
            status="ERROR", workflow_name="post_payment", created_at=paid + 1_050,
            dequeued_at=paid + 3_700, completed_at=paid + 8_500, error=late,
            parent_workflow_id="checkout-8f31-3", queue_name="ledger", executor_id="worker-7",
        )
    )  # fmt: skip


def waiting() -> Scene:
    """An order that waits for a message, beside a child in a queue and one that was cancelled."""
    begun = NOON - 3 * HOUR
    return (
        Scene()
        .add(
            "order-5",
            step(1, "reserve_stock", begun + 30, 800),
            step(2, "notify", begun + 900, 20, child_workflow_id="notify-5"),
            step(3, "ship", begun + 950, 20, child_workflow_id="ship-5"),
            step(5, "DBOS.sleep", begun + 1_000, 0),
            status="PENDING", workflow_name="order", created_at=begun, executor_id="web-1",
        )
        .add(
            "notify-5", status="ENQUEUED", workflow_name="notify", created_at=begun + 910,
            parent_workflow_id="order-5", queue_name="emails", read=False,
        )
        .add(
            "ship-5",
            step(1, "pack", begun + 1_000, 60_000),
            status="CANCELLED", workflow_name="ship", created_at=begun + 960,
            completed_at=begun + 90_000, parent_workflow_id="order-5", executor_id="web-1",
        )
    )  # fmt: skip


moments = st.one_of(
    st.none(),
    st.integers(NOON - 9 * HOUR, NOON + HOUR),
    st.sampled_from([0, -1, NOON, NOON - 1, -(2**63), 2**63 - 1]),
)
names = st.one_of(st.sampled_from(["DBOS.sleep", "DBOS.recv", "DBOS.getResult"]), st.text())
ids = st.sampled_from(["a", "b", "c", "d"])
statuses = st.sampled_from(
    ["ENQUEUED", "DELAYED", "PENDING", "SUCCESS", "ERROR", "CANCELLED", "TELEPORTED"]
)


@st.composite
def hostile_scenes(draw: st.DrawFn) -> Scene:
    """Parents in circles, children that start each other, and times in no order."""
    scene = Scene()
    for workflow_id in ("a", "b", "c"):
        steps = [
            step(place, draw(names), draw(moments), None, child_workflow_id=draw(st.none() | ids),
                 error=draw(st.none() | st.text()))
            for place in sorted(draw(st.sets(st.integers(0, 9), max_size=6)))
        ]  # fmt: skip
        steps = [each.model_copy(update={"completed_at": draw(moments)}) for each in steps]
        states = [
            {
                "status": draw(statuses), "workflow_name": draw(st.none() | st.text()),
                "created_at": draw(moments) or 0, "updated_at": draw(moments) or 0,
                "dequeued_at": draw(moments), "completed_at": draw(moments),
                "delay_until": draw(moments), "executor_id": draw(st.none() | ids),
                "queue_name": draw(st.none() | st.text()), "error": draw(st.none() | st.text()),
                "parent_workflow_id": draw(st.none() | ids), "forked_from": draw(st.none() | ids),
            }
            for _ in range(draw(st.integers(1, 3)))
        ]  # fmt: skip
        scene.add(workflow_id, *steps, before=states[:-1], read=draw(st.booleans()), **states[-1])
    return scene
