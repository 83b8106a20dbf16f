"""A night of a shop, as a mirror of it: the same facts, and the same clock, each time it is made.

The shop is the demo's, made up so that an operator has something to ask. Version 1.5.0 came at
01:10 and knows no rate for Belfast; shop-2 died at 03:01 with work in its hands; the nightly report
was not started; somebody cancelled, resumed and forked. Whoever asks, asks at 04:00.

The facts are events, recorded as sync would have: at the first look after each came about.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import insert, select

from dbos_mcp.domain import CONDUCTOR, IN_FLIGHT, WAITING
from dbos_mcp.store import projector, sync_state
from dbos_mcp.store.events import (
    ApplicationObserved,
    CommandIssued,
    CommandName,
    CommandSettled,
    Event,
    ExecutorObserved,
    StepsObserved,
    StepState,
    WorkflowChanged,
    WorkflowDeleted,
    WorkflowObserved,
)
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.sync_state import StepReadingRow
from dbos_mcp.store.tables import table_of

APP = "shop"
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
DAY = 24 * HOUR
MIDNIGHT = int(datetime(2026, 3, 14, tzinfo=UTC).timestamp() * 1_000)
NOW = MIDNIGHT + 4 * HOUR
OLD, NEW = "1.4.0", "1.5.0"
DEPLOYED_AT = MIDNIGHT + 70 * MINUTE
DIED_AT = MIDNIGHT + 181 * MINUTE
ORDERS = 36
CITIES = {"Leeds": "LS", "Bristol": "BS", "Cardiff": "CF", "Glasgow": "G", "Belfast": "BT"}
USERS = ("ada", "ben", "cleo", "dan", "eve", "finn")
_LOOK_MS = 5 * SECOND


@contextmanager
def clock(now: int = NOW) -> Iterator[None]:
    """It stands still, so that what is told does."""
    with patch("dbos_mcp.domain.time_ns", lambda: now * 1_000_000):
        yield


@dataclass
class Night:
    told: list[tuple[int, Event]] = field(default_factory=list)
    """When it was so, and what."""
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The newest one of each workflow that is still upstream."""
    steps: dict[str, tuple[StepState, ...]] = field(default_factory=dict)

    def say(self, at: int, event: Event) -> None:
        self.told.append((at, event))

    def seen(self, at: int, workflow_id: str, **fields: Any) -> None:
        """A workflow is in this state from then on; what is not named is as it was."""
        before = self.states.get(workflow_id)
        state = {
            **(before or {"application_name": APP, "workflow_id": workflow_id, "created_at": at}),
            "updated_at": at,
            **fields,
        }
        self.states[workflow_id] = state
        kind = WorkflowObserved if before is None else WorkflowChanged
        self.say(at, kind.model_validate({"occurred_at": at, **state}))

    def run(
        self,
        workflow_id: str,
        name: str,
        at: int,
        lasts: int | None = None,
        *,
        error: str | None = None,
        waits: int | None = None,
        executor: str | None = None,
        **fields: Any,
    ) -> None:
        """It begins at a time, waits for so long in its queue, and ends; without `lasts` it runs
        on. Of what failed the payloads are kept."""
        executor = executor or executor_at(at)
        version = fields.pop("application_version", version_at(at))
        taken = {"status": "PENDING", "executor_id": executor, "application_version": version}
        if "queue_name" in fields:
            self.seen(at, workflow_id, workflow_name=name, status="ENQUEUED", **fields)
            if waits is None:
                return
            at += waits
            self.seen(at, workflow_id, dequeued_at=at, **taken)
        else:
            self.seen(at, workflow_id, workflow_name=name, **fields, **taken)
        if lasts is not None:
            self.end(workflow_id, at + lasts, error)

    def end(self, workflow_id: str, at: int, error: str | None = None, **fields: Any) -> None:
        status: dict[str, Any] = {
            "status": "SUCCESS" if error is None else "ERROR",
            "payloads_loaded": True,
        }
        if error is not None:
            text = json.dumps({"args": [order_of(workflow_id)], "kwargs": {}})
            status |= {"error": error, "input_loaded": True, "input": text}
        if "deduplication_id" in self.states[workflow_id]:
            status["deduplication_id"] = None  # DBOS clears it, so that the next one can come
        self.seen(at, workflow_id, completed_at=at, **{**status, **fields})

    def did(self, workflow_id: str, at: int, *steps: tuple[Any, ...]) -> int:
        """Its steps one after the other: name, how long, error, child, output. When they ended."""
        states = []
        for number, (name, lasts, *others) in enumerate(steps, 1):
            error, child, output = (*others, None, None, None)[:3]
            states.append(
                StepState(
                    step_id=number,
                    step_name=name,
                    started_at=at,
                    completed_at=at + lasts,
                    error=error,
                    child_workflow_id=child,
                    output=output,
                )
            )
            at += lasts
        self.steps[workflow_id] = tuple(states)
        self.say(
            at + SECOND,
            StepsObserved(application_name=APP, workflow_id=workflow_id, steps=tuple(states)),
        )
        return at

    def asked(
        self, at: int, name: CommandName, workflow_id: str, new: str | None = None, **given: Any
    ) -> None:
        """Somebody commanded it, and Conductor did it."""
        command_id = f"{name}-{workflow_id}"
        one = {"application_name": APP, "workflow_id": workflow_id, "command_id": command_id}
        self.say(at, CommandIssued(**one, command=name, arguments=given, requested_by="ada"))
        self.say(at + 1, CommandSettled(**one, outcome="done", new_workflow_id=new))


def order_of(workflow_id: str) -> dict[str, str] | None:
    """What a workflow of an order has as its input."""
    number = workflow_id.removeprefix("fork-").removeprefix("order-")[:4]
    if not number.isdecimal():
        return None
    return {"order_id": f"order-{number}", "city": [*CITIES][int(number) % 5 - 1]}


def version_at(at: int) -> str:
    return OLD if at < DEPLOYED_AT else NEW


def executor_at(at: int) -> str:
    if at < DEPLOYED_AT:
        return "shop-0"
    return "shop-2" if at < DIED_AT and at // (10 * MINUTE) % 2 else "shop-1"


def the_night() -> Night:
    night = Night()
    began = MIDNIGHT - 3 * DAY
    night.say(
        began,
        ApplicationObserved(
            application_name=APP,
            application_id="4b1c6a52-5d0e-4b7e-9a53-2f6f0d1f7a11",
            status="AVAILABLE",
            language="python",
            executor_timeout_secs=30,
            gc_time_threshold_ms=2 * DAY,
        ),
    )
    for executor, at, until, status in (
        ("shop-0", began, DEPLOYED_AT, "REMOVED"),
        ("shop-1", DEPLOYED_AT - 5 * MINUTE, None, "HEALTHY"),
        ("shop-2", DEPLOYED_AT - 4 * MINUTE, DIED_AT, "DEAD"),
    ):
        _executor(night, at, executor, at, "HEALTHY")
        if until is not None:
            _executor(night, until, executor, at, status)
    _what_was_before(night)
    for number in range(1001, 1001 + ORDERS):
        _order(night, number, MIDNIGHT - 2 * HOUR + (number - 1001) * 10 * MINUTE)
    _schedules(night)
    _stuck(night)
    _what_somebody_did(night)
    night.told.sort(key=lambda told: told[0])
    return night


def _executor(night: Night, at: int, executor_id: str, created_at: int, status: str) -> None:
    event = ExecutorObserved(
        application_name=APP,
        executor_id=executor_id,
        status=status,
        application_version=version_at(created_at + 5 * MINUTE),
        hostname=f"{executor_id}.internal",
        language="python",
        dbos_version="3.4.0",
        created_at=created_at,
        updated_at=at,
        occurred_at=at,
    )
    night.say(at, event)


def _what_was_before(night: Night) -> None:
    """Retention took it at midnight."""
    day = MIDNIGHT - 2 * DAY
    for number, error in ((901, None), (902, "card declined"), (903, None)):
        workflow_id = f"order-0{number}"
        night.run(workflow_id, "place_order", day + number * SECOND, 3 * SECOND, error=error)
        night.say(MIDNIGHT, WorkflowDeleted(application_name=APP, workflow_id=workflow_id))
        del night.states[workflow_id]


def _order(night: Night, number: int, at: int) -> None:
    order, city = f"order-{number}", [*CITIES][number % 5 - 1]
    mail, packing = f"{order}-3", f"{order}-4"
    night.run(
        order,
        "place_order",
        at,
        authenticated_user=USERS[number % 6],
        attributes=json.dumps({"city": city, "tier": "gold" if number % 3 == 0 else "basic"}),
    )
    charge = 2_400 if number % 4 == 0 else 800
    if number in (1008, 1023):
        ended = night.did(order, at, ("check_stock", 40), ("charge_card", 60, "card declined"))
        night.end(order, ended, "card declined")
        return
    _receipt(night, mail, at + charge, order)
    error, done = _fulfil(night, order, number, at + charge + 60, version_at(at))
    night.did(
        order,
        at,
        ("check_stock", 40),
        ("charge_card", charge, None, None, f'"payment-{number}"'),
        ("email_receipt", 10, None, mail),
        ("fulfil_order", 10, None, packing),
        ("DBOS.getResult", done + 10 - at - charge - 60, error, packing),
    )
    night.end(order, done + 20, error)


def _fulfil(night: Night, order: str, number: int, at: int, version: str) -> tuple[str | None, int]:
    """What an order waits for: its error, and when it ended."""
    packing, city = f"{order}-4", [*CITIES][number % 5 - 1]
    courier, at_courier = f"{packing}-2", at + 130
    of_version: dict[str, Any] = {"application_version": version}
    error = "'BT'" if version == NEW and city == "Belfast" else None
    night.run(packing, "fulfil_order", at, parent_workflow_id=order, **of_version)
    night.run(courier, "book_courier", at_courier, parent_workflow_id=packing, **of_version)
    quoting = (1_250 if version == NEW else 310) + number % 7 * 10
    done = night.did(
        courier,
        at_courier,
        ("find_depot", 20, None, None, f'"{CITIES[city]}"'),
        ("quote_delivery", 30, error) if error else ("quote_delivery", quoting),
        *([] if error else [("confirm_courier", 45)]),
    )
    night.end(courier, done, error)
    night.did(
        packing,
        at,
        ("reserve_items", 130),
        ("book_courier", 0, None, courier),
        ("DBOS.getResult", done - at_courier, error, courier),
    )
    night.end(packing, done + 10, error)
    return error, done + 10


def _receipt(night: Night, mail: str, at: int, order: str) -> None:
    """Of one worker's queue: what it holds when it dies stops those behind it."""
    queue: dict[str, Any] = {"queue_name": "emails", "parent_workflow_id": order}
    if at < DIED_AT - MINUTE:
        waits = 400 + at // MINUTE % 50 * 20
        night.run(mail, "email_receipt", at, 350, waits=waits, **queue)
        night.did(mail, at + waits, ("render_receipt", 30), ("send_email", 310))
    elif at < DIED_AT:
        night.run(mail, "email_receipt", at, waits=900, executor="shop-2", **queue)
    else:
        night.run(mail, "email_receipt", at, **queue)


def _schedules(night: Night) -> None:
    for days in (3, 2, 1):
        at = MIDNIGHT - days * DAY + 2 * HOUR
        workflow_id = f"sched-nightly-report-{datetime.fromtimestamp(at / 1_000, UTC):%Y-%m-%d}"
        night.run(workflow_id, "nightly_report", at, 20 * SECOND, schedule_name="nightly-report")
    for hour in range(-2, 4):
        at = MIDNIGHT + hour * HOUR
        workflow_id = f"sched-refresh-prices-{datetime.fromtimestamp(at / 1_000, UTC):%dT%H}"
        lasts = 4 * SECOND + (hour + 2) * 700
        night.run(workflow_id, "refresh_prices", at, lasts, schedule_name="refresh-prices")


def _stuck(night: Night) -> None:
    at = MIDNIGHT + 150 * MINUTE
    night.run("import-0314", "import_catalogue", at, executor="shop-2")
    night.did("import-0314", at, ("download_feed", 95 * SECOND), ("parse_feed", 40 * SECOND))
    for number, minutes in enumerate((-90, 20, 205), 1):
        at = MIDNIGHT + minutes * MINUTE
        night.run(
            f"index-{number}",
            "rebuild_index",
            at,
            50 * SECOND,
            waits=2 * SECOND,
            queue_name="search",
            deduplication_id="catalogue",
        )
    at = MIDNIGHT + 30 * MINUTE
    night.run("stock-0314", "sync_stock", at)
    night.did("stock-0314", at, ("read_shelves", 3 * SECOND))
    for minutes, executor in ((66, "shop-1"), (80, "shop-2")):
        night.seen(
            MIDNIGHT + minutes * MINUTE,
            "stock-0314",
            executor_id=executor,
            application_version=NEW,
        )
    night.end(
        "stock-0314",
        MIDNIGHT + 95 * MINUTE,
        status="MAX_RECOVERY_ATTEMPTS_EXCEEDED",
        payloads_loaded=False,
    )


def _what_somebody_did(night: Night) -> None:
    """At half past three."""
    at = MIDNIGHT + 21 * HOUR - DAY
    night.run("reconcile-0313", "reconcile_payments", at)
    night.did("reconcile-0313", at, ("export_ledger", 8 * SECOND), ("DBOS.sleep", 6 * HOUR))
    at = MIDNIGHT + 66 * MINUTE
    night.seen(at, "reconcile-0313", executor_id="shop-1", application_version=NEW)
    at = MIDNIGHT + 200 * MINUTE
    night.asked(at, "cancel", "reconcile-0313")
    night.seen(at + 1, "reconcile-0313", status="CANCELLED", completed_at=at)
    at += 5 * MINUTE
    for workflow_id in ("reconcile-0313", "stock-0314"):
        night.asked(at, "resume", workflow_id)
        queued = {"queue_name": "_dbos_internal_queue", "completed_at": None, "dequeued_at": None}
        night.seen(at + 1, workflow_id, status="ENQUEUED", **queued)
        taken = at + 2 * SECOND
        night.seen(taken, workflow_id, status="PENDING", executor_id="shop-1", dequeued_at=taken)
    night.end("reconcile-0313", at + 3 * MINUTE)
    for number, version in ((1020, OLD), (1025, NEW)):
        at += 2 * MINUTE
        order, fork = f"order-{number}", f"fork-order-{number}"
        night.asked(at, "fork", order, fork, start_step=4, application_version=version)
        night.seen(at + 1, order, was_forked_from=True)
        of_order: dict[str, Any] = {"forked_from": order, "application_version": version}
        night.run(fork, "place_order", at, **of_order)
        error, done = _fulfil(night, fork, number, at + 100, version)
        kept = night.steps[order][:3]
        again = (
            StepState(
                step_id=4,
                step_name="fulfil_order",
                child_workflow_id=f"{fork}-4",
                started_at=at + 90,
                completed_at=at + 100,
            ),
            StepState(
                step_id=5,
                step_name="DBOS.getResult",
                child_workflow_id=f"{fork}-4",
                started_at=at + 100,
                completed_at=done,
                error=error,
            ),
        )
        night.steps[fork] = (*kept, *again)
        read = StepsObserved(application_name=APP, workflow_id=fork, steps=night.steps[fork])
        night.say(done + SECOND, read)
        night.end(fork, done + 10, error)


def write(path: Path, night: Night) -> None:
    """The mirror of it, as it was at the last look before 04:00."""
    looked_at = NOW - 4 * SECOND
    with clock():
        cache = open_cache(path)
        with cache.write() as connection:
            for look, told in groupby(night.told, lambda told: told[0] // _LOOK_MS):
                events = [event for _, event in told]
                projector.record(connection, events, recorded_at=(look + 1) * _LOOK_MS)
            table = table_of(WorkflowRow)
            keys = {
                row.workflow_id: row
                for row in connection.execute(
                    select(table.c.id, table.c.workflow_id, table.c.status, table.c.updated_at)
                )
            }
            readings = [
                {
                    "workflow_key": row.id,
                    "read_at": row.updated_at + 2 * _LOOK_MS,
                    "workflow_status": row.status,
                    "workflow_updated_at": row.updated_at,
                }
                for name, row in keys.items()
                if name in night.steps or row.status not in IN_FLIGHT + WAITING
            ]
            connection.execute(insert(StepReadingRow), readings)
            since = NOW - 30 * DAY
            of_shop = {
                "watermark": looked_at - 120 * SECOND,
                "ended_watermark": looked_at - 120 * SECOND,
                "steps_since": since,
                "audited_at": NOW - 7 * MINUTE,
                "requests": 31_104,
                "bytes_sent": 9_331_200,
                "bytes_received": 46_656_000,
            }
            for name, more in ((APP, of_shop), (CONDUCTOR, {"requests": 2_592})):
                look_state = {
                    "covered_since": since,
                    "history_complete": True,
                    "attempted_at": looked_at,
                    "succeeded_at": looked_at,
                }
                sync_state.update(connection, name, {**look_state, **more})
        cache.close()
