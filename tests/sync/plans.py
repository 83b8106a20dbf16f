"""Random lives of a system database, and what may befall the processes that mirror it.

A plan is a list of commands, each a value that prints as the code that makes it. What DBOS does to
its rows is done by plain SQL, with the effects that its own statements have.
"""

import base64
import json
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import httpx
from hypothesis import strategies as st

from dbos_mcp.domain import IN_FLIGHT
from tests.store.mortal import Moment
from tests.upstream import APP, COMPARED, Tables, pickled, problem, workflow

T = TypeVar("T")

BEGINNING = 1_790_000_000_000
SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
INTERNAL_QUEUE = "_dbos_internal_queue"
LATEST = 115 * SECOND
"""So late may a row become visible, and a row of the future be there as well."""


def shown(error: str | None) -> str | None:
    """An error as an executor shows it."""
    return error and str(pickle.loads(base64.b64decode(error)))


@dataclass
class Upstream:
    """A system database, its clock, and what has been done to it."""

    tables: Tables
    now: int = BEGINNING
    made: int = 0
    deletions: Counter[str] = field(default_factory=Counter)
    unannounced: set[str] = field(default_factory=set)
    """Rows that came to be where a mirror may already have looked."""
    of_the_future: set[str] = field(default_factory=set)
    """Rows whose `updatedAt` goes back at their first change."""

    def ids(self, *statuses: str) -> list[str]:
        """Of the rows in these statuses, or of all, oldest first."""
        rows = self.tables.rows("SELECT workflow_uuid, status FROM workflow_status ORDER BY rowid")
        return [row[0] for row in rows if row[1] in statuses or not statuses]

    def owned(self) -> dict[str, int]:
        """The `createdAt` of what our application sees in a listing."""
        return dict(
            self.tables.rows(
                "SELECT workflow_uuid, created_at FROM workflow_status"
                " WHERE coalesce(application_name, ?) = ?",
                *(APP, APP),
            )
        )

    def workflows(self) -> dict[str, dict[str, Any]]:
        columns = [*COMPARED.values(), "application_name", "attributes", "error"]
        selected = self.tables.rows(f"SELECT {', '.join(columns)} FROM workflow_status")
        rows = [dict(zip(columns, values, strict=True)) for values in selected]
        return {
            row["workflow_uuid"]: {
                **row,
                "attributes": row["attributes"] and json.loads(row["attributes"]),
                "error": shown(row["error"]),
            }
            for row in rows
        }

    def steps(self, workflow_id: str) -> list[tuple[Any, ...]]:
        rows = self.tables.rows(
            "SELECT function_id, function_name, child_workflow_id, started_at_epoch_ms,"
            " completed_at_epoch_ms, error FROM operation_outputs WHERE workflow_uuid = ?"
            " ORDER BY function_id",
            workflow_id,
        )
        return [(*row[:-1], shown(row[-1])) for row in rows]

    def add_step(self, workflow_id: str, step_id: int, error: str | None = None) -> None:
        self.tables.change(
            "INSERT OR IGNORE INTO operation_outputs (workflow_uuid, function_id, function_name,"
            " error, started_at_epoch_ms, completed_at_epoch_ms) VALUES (?, ?, ?, ?, ?, ?)",
            *(workflow_id, step_id, f"step_{step_id}", error and pickled(RuntimeError(error))),
            *(self.now - 1, self.now),
        )


@dataclass(frozen=True)
class Insert:
    """Rows of one `createdAt`, `age_ms` before now: late, imported, or of the future."""

    status: str = "PENDING"
    count: int = 1
    age_ms: int = 0
    old_sdk: bool = False
    """It does not say when a workflow ended."""
    child: bool = False
    queued: bool = False
    again: bool = False
    """The first one has been there before, and was deleted."""

    def apply(self, upstream: Upstream) -> None:
        at = upstream.now - self.age_ms
        columns: dict[str, object] = {}
        if self.status in ("ENQUEUED", "DELAYED"):
            columns |= {"executor_id": None, "application_version": None, "queue_name": "emails"}
        if self.status == "DELAYED":
            columns["delay_until_epoch_ms"] = at + MINUTE
        if self.queued and self.status == "PENDING":
            columns |= {"queue_name": "emails", "started_at_epoch_ms": at}
        if self.status == "ERROR":
            columns["error"] = pickled(RuntimeError(f"no luck at {at}"))
        if self.old_sdk:
            columns["completed_at"] = None
        parents = upstream.ids()
        if self.child and parents:
            columns["parent_workflow_id"] = parents[-1]
        ids = [f"w{upstream.made + n}" for n in range(self.count)]
        upstream.made += self.count
        buried = sorted(upstream.deletions.keys() - set(parents))
        if self.again and buried:
            ids[0] = buried[-1]
        rows = [workflow(workflow_id, at, self.status, **columns) for workflow_id in ids]
        if self.age_ms > 0:
            upstream.unannounced |= {row["workflow_uuid"] for row in rows}
        if self.age_ms < 0:
            upstream.of_the_future |= {row["workflow_uuid"] for row in rows}
        upstream.tables.add(*rows)


def _dequeue(upstream: Upstream, workflow_id: str, _n: int) -> None:
    upstream.tables.update(
        workflow_id,
        status="PENDING",
        started_at_epoch_ms=upstream.now,
        updated_at=upstream.now,
        executor_id="shop-2",
        application_version="1.4.1",
    )


def _succeed(upstream: Upstream, workflow_id: str, _n: int) -> None:
    upstream.tables.end(workflow_id, upstream.now, deduplication_id=None)


def _fail(upstream: Upstream, workflow_id: str, n: int) -> None:
    status = "ERROR" if n % 3 else "MAX_RECOVERY_ATTEMPTS_EXCEEDED"
    error = pickled(RuntimeError(f"no luck at {upstream.now}")) if n % 3 else None
    gone = {} if n % 3 else {"queue_name": None, "started_at_epoch_ms": None}
    upstream.tables.end(workflow_id, upstream.now, status, error=error, **gone)


def _end_untold(upstream: Upstream, workflow_id: str, _n: int) -> None:
    """As an old SDK does, which does not say when."""
    upstream.tables.update(workflow_id, status="SUCCESS", updated_at=upstream.now)


def _cancel(upstream: Upstream, workflow_id: str, _n: int) -> None:
    upstream.tables.end(
        workflow_id, upstream.now, "CANCELLED", queue_name=None, started_at_epoch_ms=None
    )


def _resume(upstream: Upstream, workflow_id: str, _n: int) -> None:
    upstream.tables.update(
        workflow_id,
        status="ENQUEUED",
        queue_name=INTERNAL_QUEUE,
        started_at_epoch_ms=None,
        completed_at=None,
        updated_at=upstream.now,
    )


def _rewind(upstream: Upstream, workflow_id: str, n: int) -> None:
    _resume(upstream, workflow_id, n)
    upstream.tables.update(workflow_id, error=None)
    upstream.tables.change(
        "DELETE FROM operation_outputs WHERE workflow_uuid = ? AND function_id >= ?",
        *(workflow_id, n),
    )


def _recover(upstream: Upstream, workflow_id: str, _n: int) -> None:
    upstream.tables.update(workflow_id, status="ENQUEUED", started_at_epoch_ms=None)


def _come_due(upstream: Upstream, workflow_id: str, _n: int) -> None:
    upstream.tables.update(workflow_id, status="ENQUEUED")


def _delay(upstream: Upstream, workflow_id: str, n: int) -> None:
    due = upstream.now + n * SECOND
    upstream.tables.update(workflow_id, delay_until_epoch_ms=due, updated_at=upstream.now)


def _fork(upstream: Upstream, workflow_id: str, n: int) -> None:
    fork = f"w{upstream.made}"
    upstream.made += 1
    upstream.tables.add(
        workflow(fork, upstream.now, "ENQUEUED", queue_name=INTERNAL_QUEUE, forked_from=workflow_id)
    )
    upstream.tables.change(
        "INSERT INTO operation_outputs (workflow_uuid, function_id, function_name, error,"
        " started_at_epoch_ms, completed_at_epoch_ms) SELECT ?, function_id, function_name, error,"
        " started_at_epoch_ms, completed_at_epoch_ms FROM operation_outputs"
        " WHERE workflow_uuid = ? AND function_id < ?",
        *(fork, workflow_id, n),
    )
    upstream.tables.update(workflow_id, was_forked_from=1)


def _delete(upstream: Upstream, workflow_id: str, _n: int) -> None:
    upstream.tables.change("DELETE FROM operation_outputs WHERE workflow_uuid = ?", workflow_id)
    upstream.tables.change("DELETE FROM workflow_status WHERE workflow_uuid = ?", workflow_id)
    upstream.deletions[workflow_id] += 1


def _delete_in_flight(upstream: Upstream, workflow_id: str, n: int) -> None:
    """One that was never resumed: of those a mirror may know no more than that they had ended."""
    queue = "SELECT queue_name FROM workflow_status WHERE workflow_uuid = ?"
    if upstream.tables.rows(queue, workflow_id) != [(INTERNAL_QUEUE,)]:
        _delete(upstream, workflow_id, n)


def _swap(upstream: Upstream, workflow_id: str, _n: int) -> None:
    """Gone, and another one of the same moment is there: no count tells."""
    other = f"w{upstream.made}"
    upstream.made += 1
    upstream.unannounced.add(other)
    upstream.deletions[workflow_id] += 1
    upstream.tables.change("DELETE FROM operation_outputs WHERE workflow_uuid = ?", workflow_id)
    upstream.tables.change(
        "UPDATE workflow_status SET workflow_uuid = ? WHERE workflow_uuid = ?", other, workflow_id
    )


def _set_attributes(upstream: Upstream, workflow_id: str, n: int) -> None:
    upstream.tables.update(workflow_id, attributes=json.dumps({"n": n}), updated_at=upstream.now)


def _rename_application(upstream: Upstream, workflow_id: str, _n: int) -> None:
    """And back, the next time."""
    upstream.tables.change(
        "UPDATE workflow_status SET application_name = CASE application_name WHEN ? THEN 'attic'"
        " ELSE ? END WHERE workflow_uuid = ?",
        *(APP, APP, workflow_id),
    )
    upstream.unannounced.add(workflow_id)


def _take_step(upstream: Upstream, workflow_id: str, n: int) -> None:
    """Parallel ones complete in any order."""
    upstream.add_step(workflow_id, n, None if n % 2 else f"step {n} had no luck")


Effect = Callable[[Upstream, str, int], None]
ENDED = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
RESUMABLE = ("CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "PENDING")

SEEN_BY_CYCLES: dict[str, tuple[Effect, tuple[str, ...]]] = {
    "dequeue": (_dequeue, ("ENQUEUED",)),
    "succeed": (_succeed, ("PENDING",)),
    "fail": (_fail, ("PENDING",)),
    "cancel": (_cancel, IN_FLIGHT),
    "resume": (_resume, RESUMABLE),
    "rewind": (_rewind, ENDED),
    "recover": (_recover, ("PENDING",)),
    "come due": (_come_due, ("DELAYED",)),
    "delay": (_delay, ("DELAYED",)),
    "fork": (_fork, ENDED),
    "delete in flight": (_delete_in_flight, IN_FLIGHT),
    "take step": (_take_step, ("PENDING",)),
    "set attributes in flight": (_set_attributes, IN_FLIGHT),
}
SEEN_BY_AUDITS: dict[str, tuple[Effect, tuple[str, ...]]] = {
    "end untold": (_end_untold, ("PENDING",)),
    "delete ended": (_delete, ENDED),
    "swap": (_swap, ENDED),
    "set attributes": (_set_attributes, ENDED),
    "rename application": (_rename_application, ()),
}


TRANSITIONS = SEEN_BY_CYCLES | SEEN_BY_AUDITS


@dataclass(frozen=True)
class Transition:
    """What happens to one workflow of those it can happen to."""

    name: str
    target: int = 0
    n: int = 1

    def apply(self, upstream: Upstream) -> None:
        effect, statuses = TRANSITIONS[self.name]
        candidates = upstream.ids(*statuses)
        if candidates:
            upstream.now += 1
            effect(upstream, candidates[self.target % len(candidates)], self.n)


Change = Insert | Transition


@dataclass(frozen=True)
class Wait:
    """Time goes by, upstream and here."""

    ms: int


@dataclass(frozen=True)
class OurClockJumps:
    ms: int


@dataclass(frozen=True)
class Killed:
    """The process ends at a request (before it is sent, or when its answer is there) or at a write
    (before it, in its transaction, or after it), counted from 0."""

    what: Literal["request", "write"]
    number: int
    moment: Moment = "before"


@dataclass(frozen=True)
class Failing:
    """From this request on, so many of them get no proper answer."""

    request: int
    fault: str
    times: int = 1


@dataclass(frozen=True)
class Meanwhile:
    """When a request has been answered and its answer is still on its way, something else happens;
    or just before it is answered."""

    request: int
    happens: "Change | Cycle"
    answered: bool = True


Mishap = Killed | Failing | Meanwhile


@dataclass(frozen=True)
class Cycle:
    process: int = 0
    mishaps: tuple[Mishap, ...] = ()


@dataclass(frozen=True)
class Restart:
    process: int = 0


Command = Change | Wait | OurClockJumps | Cycle | Restart


@dataclass(frozen=True)
class Plan:
    commands: Sequence[Command]
    page_limit: int = 2
    history_ms: int | None = None


FAULTS: dict[str, Callable[[], httpx.Response | Exception]] = {
    "401": lambda: problem(401),
    "403": lambda: problem(403),
    "404": lambda: problem(404, "no such application"),
    "429": lambda: problem(429),
    "500": lambda: problem(500, "it broke"),
    "502": lambda: problem(502),
    "503": lambda: problem(503, "no healthy executor"),
    "reset": lambda: httpx.ReadError("connection reset"),
    "refused": lambda: httpx.ConnectError("refused"),
    "slow": lambda: httpx.ReadTimeout("slow"),
    "half": lambda: httpx.Response(200, content=b'[{"workflowId": "w", "sta'),
    "html": lambda: httpx.Response(200, html="<html>It works!</html>"),
}


def plans(*, audited: bool) -> st.SearchStrategy[Plan]:
    """`audited`: with what no filter finds, or not when other changes come on top."""
    any_status = st.sampled_from([*IN_FLIGHT, *ENDED])
    ages = [0, 0, 0, 1, 999, 30 * SECOND, LATEST, -3 * SECOND]
    old = [5 * MINUTE, HOUR, 3 * DAY]

    def inserts_of(ages: list[int]) -> st.SearchStrategy[Insert]:
        return st.builds(
            Insert,
            status=any_status,
            count=st.sampled_from([1, 1, 1, 2, 3, 7, 12]),
            age_ms=st.sampled_from(ages),
            old_sdk=st.booleans(),
            child=st.booleans(),
            queued=st.booleans(),
            again=st.booleans(),
        )

    inserts = inserts_of([*ages, *old] if audited else ages)
    transitions = st.builds(
        Transition,
        name=st.sampled_from([*(TRANSITIONS if audited else SEEN_BY_CYCLES)]),
        target=st.integers(0, 20),
        n=st.integers(0, 5),
    )
    changes = weighted((1, inserts), (2, transitions))
    request = st.integers(0, 15)
    moments = st.sampled_from(["before", "within", "after"])
    misfortunes = st.one_of(
        st.builds(Killed, st.just("request"), request, st.sampled_from(["before", "after"])),
        st.builds(Killed, st.just("write"), st.integers(0, 10), moments),
        st.builds(Failing, request, st.sampled_from([*FAULTS]), st.sampled_from([1, 1, 30])),
    )
    alone = st.builds(Cycle, mishaps=st.lists(misfortunes, max_size=1).map(tuple))
    meanwhile = st.builds(Meanwhile, request, weighted((3, changes), (1, alone)), st.booleans())
    mishaps = st.lists(weighted((1, misfortunes), (1, meanwhile)), max_size=4).map(tuple)
    cycles = st.builds(Cycle, st.integers(0, 1), mishaps)
    waits = st.builds(Wait, st.sampled_from([0, SECOND, MINUTE, 3 * MINUTE, HOUR]))
    jumps = st.builds(
        OurClockJumps, st.sampled_from([s * ms for ms in (MINUTE, HOUR, 5 * HOUR) for s in (1, -1)])
    )
    restarts = st.builds(Restart, st.integers(0, 1))
    between = st.lists(
        weighted((2, waits), (9, changes), (1, jumps), (1, restarts)), min_size=2, max_size=7
    )
    turns = st.lists(st.tuples(between, cycles), min_size=3, max_size=7)
    return st.builds(
        Plan,
        st.builds(
            lambda first, turns: [
                *first,
                *(c for changes, cycle in turns for c in (*changes, cycle)),
            ],
            st.lists(inserts_of([*ages, *old]), min_size=2, max_size=6),
            turns,
        ),
        page_limit=st.integers(1, 5),
        history_ms=st.sampled_from([None, None, HOUR]),
    )


def weighted(*choices: tuple[int, st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """`one_of` takes each strategy once, however often it is named."""
    indices = [n for n, (weight, _) in enumerate(choices) for _ in range(weight)]
    return st.sampled_from(indices).flatmap(lambda n: choices[n][1])
