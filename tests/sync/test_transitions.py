"""Every transition that a workflow can go through, by a real DBOS application on SQLite and on
PostgreSQL, and what the mirror makes of it: the events, the row and the history.

All that was there before a transition is an hour old, so that nothing is found only because it was
created, dequeued or ended within the overlap of the last look.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from dbos import DBOSClient

from dbos_mcp.domain import now_ms
from dbos_mcp.queries.history import HistoryEntry, get_history
from dbos_mcp.queries.workflow import WorkflowDetail, get_workflow
from dbos_mcp.queries.workflows import WorkflowItem
from dbos_mcp.settings import DAY_MS
from dbos_mcp.sync.audit import AUDIT_EVERY_MS, REREAD_EVERY_MS
from dbos_mcp.sync.recent import FEW_IN_FLIGHT
from dbos_mcp.sync.visit import OVERLAP_MS
from dbos_mcp.sync.worker import EXECUTORS_EVERY_MS
from tests.postgres import running_postgres
from tests.sync.application import CLOSED, EXECUTOR, OPEN, SCHEDULE, SINGLE, Application
from tests.upstream import APP, Site, open_site

pytestmark = pytest.mark.e2e

HOUR_MS = 3_600_000
INTERNAL_QUEUE = "_dbos_internal_queue"

RUNNING = f"PENDING (executor {EXECUTOR})"
TAKEN = f"PENDING (queue {OPEN}, executor {EXECUTOR})"
WAITING = f"ENQUEUED (queue {CLOSED}, executor {EXECUTOR})"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def application(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Application]:
    directory = tmp_path_factory.mktemp("application")
    with ExitStack() as stack:
        url = f"sqlite:///{directory}/application.sqlite"
        if request.param == "postgresql":
            url = stack.enter_context(running_postgres()).format("transitions")
        application = Application(APP, url, directory / "stderr")
        stack.callback(application.kill)
        application.start()
        yield application


@dataclass
class Stage:
    """The application, a client of it, and a mirror."""

    application: Application
    client: DBOSClient
    site: Site

    def do(self, name: str, *positional: object, **named: object) -> str:
        return self.application.do(name, *positional, **named)

    def run(self, workflow_id: str, outcome: str = "ok", **options: object) -> None:
        """Have it at the place where it waits to be released."""
        self.do("start", workflow_id, "stocktake", outcome, **options)
        self.do("await_running", workflow_id)

    def in_flight(self, workflow_id: str, status: str) -> None:
        if status == "PENDING":
            self.run(workflow_id, queue=OPEN)
        else:
            delay = 3600 if status == "DELAYED" else None
            self.do("start", workflow_id, "restock", "shelf-1", queue=CLOSED, delay_seconds=delay)

    def finish(self, workflow_id: str) -> None:
        self.do("release", workflow_id)
        self.do("settle", workflow_id)

    async def begin(self, *, crowd: int = 0) -> None:
        """Mirror what there is, an hour later and with one more that is new; `crowd` others are in
        flight all the time."""
        for number in range(crowd):
            self.do("start", f"crowd-{number}", "restock", "shelf-9", queue=CLOSED)
        self.age(HOUR_MS)
        self.do("start", "recent", "restock", "shelf-1")
        self.do("settle", "recent")
        await self.look()

    def age(self, ms: int) -> None:
        times = ("created_at", "updated_at", "completed_at", "started_at_epoch_ms")
        older = ", ".join(f"{column} = {column} - {ms}" for column in times)
        self.site.tables.change(f"UPDATE workflow_status SET {older}")

    async def look(self) -> list[tuple[str, str | None]]:
        """What one more cycle records of workflows. The mirror is right afterwards."""
        news = await self.look_anyhow()
        assert self.site.differences() == {}
        return news

    async def look_anyhow(self) -> list[tuple[str, str | None]]:
        self.site.clock.ahead_ms += 1000
        report = await self.site.sync()
        assert report.error is None
        return [entry for entry in self.site.news() if entry[0].startswith("Workflow")]

    async def audit(self) -> list[tuple[str, str | None]]:
        """What a cycle records after so long that it audits."""
        self.site.clock.ahead_ms += AUDIT_EVERY_MS
        return await self.look_anyhow()

    async def reread(self) -> list[tuple[str, str | None]]:
        """What a cycle records after so long that it reads everything again by id."""
        self.site.clock.ahead_ms += REREAD_EVERY_MS
        return await self.look_anyhow()

    def detail(self, workflow_id: str) -> WorkflowDetail:
        with self.site.cache.read() as connection:
            return get_workflow(connection, APP, workflow_id)

    def row(self, workflow_id: str) -> WorkflowItem:
        return self.detail(workflow_id).workflow

    def entries(self, workflow_id: str) -> list[HistoryEntry]:
        with self.site.cache.read() as connection:
            return get_history(connection, APP, workflow_id)

    def history(self, workflow_id: str) -> list[str]:
        """Of the workflow itself, without its steps."""
        return [entry.what for entry in self.of_itself(workflow_id)]

    def causes(self, workflow_id: str) -> list[str | None]:
        return [entry.cause for entry in self.of_itself(workflow_id)]

    def of_itself(self, workflow_id: str) -> list[HistoryEntry]:
        return [e for e in self.entries(workflow_id) if e.kind.startswith("Workflow")]


@pytest.fixture
async def stage(application: Application, cache_path: Path) -> AsyncIterator[Stage]:
    application.start()
    client = DBOSClient(system_database_url=application.url)
    try:
        async with open_site(application.url, cache_path) as site:
            yield Stage(application, client, site)
    finally:
        client.destroy()
    application.do("clear")


CROWD = FEW_IN_FLIGHT + 1
crowds = pytest.mark.parametrize("crowd", [0, CROWD])
"""With so few in flight that they are listed at each look, and with more."""


# New rows


async def test_a_direct_start(stage: Stage) -> None:
    await stage.begin()
    stage.run("direct")

    assert await stage.look() == [("WorkflowObserved", "direct")]
    row = stage.row("direct")
    assert (row.status, row.workflow_name, row.executor_id) == ("PENDING", "stocktake", EXECUTOR)
    assert (row.queue_name, row.dequeued_at, row.completed_at) == (None, None, None)
    assert stage.history("direct") == [RUNNING]
    assert stage.causes("direct") == ["first seen"]


async def test_an_enqueue(stage: Stage) -> None:
    await stage.begin()
    stage.do("start", "queued", "restock", "shelf-1", queue=CLOSED, priority=3)

    assert await stage.look() == [("WorkflowObserved", "queued")]
    row = stage.row("queued")
    assert (row.status, row.queue_name, row.priority) == ("ENQUEUED", CLOSED, 3)
    assert (row.dequeued_at, row.completed_at) == (None, None)
    assert stage.history("queued") == [WAITING]


async def test_an_enqueue_by_a_client(stage: Stage) -> None:
    """Nobody's yet: it has neither executor nor version, nor an application."""
    await stage.begin()
    stage.client.enqueue(
        {"queue_name": CLOSED, "workflow_name": "restock", "workflow_id": "foreign"}, "shelf-1"
    )

    assert await stage.look() == [("WorkflowObserved", "foreign")]
    row = stage.row("foreign")
    assert (row.status, row.queue_name) == ("ENQUEUED", CLOSED)
    assert (row.executor_id, row.application_version, row.owning_application) == (None, None, None)
    assert stage.history("foreign") == [f"ENQUEUED (queue {CLOSED})"]


async def test_a_delayed_enqueue(stage: Stage) -> None:
    await stage.begin()
    stage.do("start", "later", "restock", "shelf-1", queue=CLOSED, delay_seconds=3600)

    assert await stage.look() == [("WorkflowObserved", "later")]
    row = stage.row("later")
    assert (row.status, row.queue_name) == ("DELAYED", CLOSED)
    assert row.delay_until is not None
    assert row.delay_until > row.created_at
    assert stage.history("later") == [WAITING.replace("ENQUEUED", "DELAYED")]


async def test_a_schedule_that_fires(stage: Stage) -> None:
    await stage.begin()
    workflow_id = stage.do("trigger")
    stage.do("settle", workflow_id)

    assert await stage.look() == [("WorkflowObserved", workflow_id)]
    row = stage.row(workflow_id)
    assert (row.status, row.workflow_name) == ("SUCCESS", "nightly_report")
    assert row.schedule_name == SCHEDULE
    assert row.dequeued_at is not None
    assert stage.history(workflow_id) == [f"SUCCESS (queue {INTERNAL_QUEUE}, executor {EXECUTOR})"]


async def test_a_child(stage: Stage) -> None:
    await stage.begin()
    stage.do("start", "parent", "restock_all", "child")
    stage.do("settle", "parent")

    assert sorted(await stage.look()) == [
        ("WorkflowObserved", "child"),
        ("WorkflowObserved", "parent"),
    ]
    assert stage.row("child").parent_workflow_id == "parent"
    assert [child.workflow_id for child in stage.detail("parent").children.items] == ["child"]
    assert stage.history("child") == [f"SUCCESS (executor {EXECUTOR})"]


# In flight


@crowds
async def test_a_dequeue(stage: Stage, crowd: int) -> None:
    stage.run("first", queue=SINGLE)
    stage.do("start", "queued", "stocktake", "ok", queue=SINGLE)
    await stage.begin(crowd=crowd)
    before = stage.row("queued")
    assert before.status == "ENQUEUED"
    stage.finish("first")
    stage.do("await_running", "queued")

    assert set(await stage.look()) == {("WorkflowChanged", "first"), ("WorkflowChanged", "queued")}
    row = stage.row("queued")
    assert (row.status, row.queue_name, row.executor_id) == ("PENDING", SINGLE, EXECUTOR)
    assert row.dequeued_at is not None
    assert row.updated_at > before.updated_at
    place = f"(queue {SINGLE}, executor {EXECUTOR})"
    assert stage.history("queued") == [f"ENQUEUED {place}", f"PENDING {place}"]
    assert stage.causes("queued") == ["first seen", "dequeued"]


@crowds
async def test_a_delay_that_is_over(stage: Stage, crowd: int) -> None:
    stage.do("start", "later", "restock", "shelf-1", queue=CLOSED, delay_seconds=3600)
    await stage.begin(crowd=crowd)
    before = stage.row("later")
    assert before.status == "DELAYED"
    stage.site.tables.update("later", delay_until_epoch_ms=before.created_at)
    stage.do("await_status", "later", "ENQUEUED")

    assert await stage.look() == [("WorkflowChanged", "later")]
    row = stage.row("later")
    assert (row.status, row.dequeued_at) == ("ENQUEUED", None)
    assert row.updated_at == before.updated_at
    assert stage.history("later") == [WAITING.replace("ENQUEUED", "DELAYED"), WAITING]
    assert stage.causes("later") == ["first seen", "its delay was over"]


async def test_a_delay_that_is_changed(stage: Stage) -> None:
    stage.do("start", "later", "restock", "shelf-1", queue=CLOSED, delay_seconds=3600)
    await stage.begin()
    before = stage.row("later")
    stage.do("delay", "later", delay_seconds=7200)

    assert await stage.look() == [("WorkflowChanged", "later")]
    row = stage.row("later")
    assert row.status == "DELAYED"
    assert (row.delay_until or 0) > (before.delay_until or 0)
    assert stage.history("later") == [WAITING.replace("ENQUEUED", "DELAYED")] * 2
    assert stage.causes("later") == ["first seen", "delay changed"]


async def test_a_delay_that_is_changed_among_many_is_found_while_few_are_delayed(
    stage: Stage,
) -> None:
    stage.do("start", "later", "restock", "shelf-1", queue=CLOSED, delay_seconds=3600)
    await stage.begin(crowd=FEW_IN_FLIGHT)
    stage.do("delay", "later", delay_seconds=7200)
    assert await stage.look() == [("WorkflowChanged", "later")]

    stage.do("delay", "later", delay_seconds=10_800)
    stage.site.clock.ahead_ms += EXECUTORS_EVERY_MS
    # A look that lists the executors too leaves this to the next one.
    assert [*await stage.look_anyhow(), *await stage.look()] == [("WorkflowChanged", "later")]


async def test_a_debounce(stage: Stage) -> None:
    assert stage.do("debounce", "first", "shelves", 3600, "shelf-1") == "first"
    await stage.begin()
    before = stage.row("first")
    assert before.status == "DELAYED"
    assert before.deduplication_id == "restock-shelves"
    assert stage.do("debounce", "second", "shelves", 7200, "shelf-2") == "first"

    assert await stage.look() == [("WorkflowChanged", "first")]
    debounced = stage.row("first")
    assert (debounced.delay_until or 0) > (before.delay_until or 0)

    stage.site.tables.update("first", delay_until_epoch_ms=before.created_at)
    stage.do("await_status", "first", "ENQUEUED")
    assert await stage.look() == [("WorkflowChanged", "first")]
    row = stage.row("first")
    assert (row.status, row.deduplication_id) == ("ENQUEUED", None)
    assert row.updated_at == debounced.updated_at
    assert stage.history("first") == [*[WAITING.replace("ENQUEUED", "DELAYED")] * 2, WAITING]
    assert stage.causes("first") == [
        "first seen",
        "delay changed, or debounced",
        "its delay was over",
    ]


# Ends


@crowds
async def test_a_success(stage: Stage, crowd: int) -> None:
    stage.run("once", queue=OPEN, deduplication_id="stock")
    await stage.begin(crowd=crowd)
    assert stage.row("once").deduplication_id == "stock"
    stage.finish("once")

    assert await stage.look() == [("WorkflowChanged", "once")]
    row = stage.row("once")
    assert (row.status, row.deduplication_id) == ("SUCCESS", None)
    assert row.completed_at == row.updated_at
    assert stage.history("once") == [TAKEN, TAKEN.replace("PENDING", "SUCCESS")]
    assert stage.causes("once") == ["first seen", "succeeded"]


@crowds
async def test_an_error(stage: Stage, crowd: int) -> None:
    stage.run("failing", "fail")
    await stage.begin(crowd=crowd)
    stage.finish("failing")

    assert await stage.look() == [("WorkflowChanged", "failing")]
    detail = stage.detail("failing")
    assert (detail.workflow.status, detail.workflow.error) == ("ERROR", "a difference of 6")
    assert detail.workflow.completed_at == detail.workflow.updated_at
    assert (detail.steps.count, detail.steps.failed) == (3, 1)
    assert [entry.what for entry in stage.entries("failing")] == [
        RUNNING,
        "2 steps",
        RUNNING.replace("PENDING", "ERROR"),
        "3 steps, 1 failed",
    ]
    assert stage.causes("failing") == ["first seen", "failed"]


@crowds
@pytest.mark.parametrize("status", ["PENDING", "ENQUEUED", "DELAYED"])
async def test_a_cancel(stage: Stage, status: str, crowd: int) -> None:
    stage.in_flight("stopped", status)
    await stage.begin(crowd=crowd)
    assert stage.row("stopped").status == status
    stage.do("cancel", "stopped")

    assert await stage.look() == [("WorkflowChanged", "stopped")]
    row = stage.row("stopped")
    assert (row.status, row.queue_name, row.dequeued_at) == ("CANCELLED", None, None)
    assert row.completed_at == row.updated_at
    assert [what.split()[0] for what in stage.history("stopped")] == [status, "CANCELLED"]
    assert stage.causes("stopped") == ["first seen", "cancelled by somebody"]


async def test_a_cancel_of_a_cancelled_workflow(stage: Stage) -> None:
    """It ends anew."""
    stage.run("stopped")
    stage.do("cancel", "stopped")
    await stage.begin()
    before = stage.row("stopped")
    stage.do("cancel", "stopped")

    assert await stage.look() == [("WorkflowChanged", "stopped")]
    row = stage.row("stopped")
    assert (row.completed_at or 0) > (before.completed_at or 0)
    assert stage.history("stopped") == [RUNNING.replace("PENDING", "CANCELLED")] * 2
    assert stage.causes("stopped") == ["first seen", "cancelled again"]


async def test_a_timeout(stage: Stage) -> None:
    stage.run("slow", timeout=3600)
    await stage.begin()
    before = stage.row("slow")
    assert before.timeout_ms == HOUR_MS
    stage.site.tables.update("slow", workflow_deadline_epoch_ms=before.created_at)
    stage.do("await_status", "slow", "CANCELLED")

    assert await stage.look() == [("WorkflowChanged", "slow")]
    row = stage.row("slow")
    assert (row.status, row.deadline) == ("CANCELLED", before.created_at)
    assert row.completed_at == row.updated_at
    assert stage.history("slow") == [RUNNING, RUNNING.replace("PENDING", "CANCELLED")]
    assert stage.causes("slow") == ["first seen", "timed out"]


# Once more


@crowds
async def test_a_resume_of_a_cancelled_workflow(stage: Stage, crowd: int) -> None:
    stage.run("again")
    stage.do("cancel", "again")
    stage.run("first", queue=SINGLE)
    await stage.begin(crowd=crowd)
    assert stage.row("again").status == "CANCELLED"
    stage.do("resume", "again", queue_name=SINGLE)

    assert await stage.look() == [("WorkflowChanged", "again")]
    row = stage.row("again")
    assert (row.status, row.queue_name) == ("ENQUEUED", SINGLE)
    assert (row.completed_at, row.dequeued_at) == (None, None)

    stage.finish("first")
    stage.do("await_running", "again")
    assert ("WorkflowChanged", "again") in await stage.look()
    assert stage.row("again").dequeued_at is not None
    place = f"(queue {SINGLE}, executor {EXECUTOR})"
    assert stage.history("again") == [
        RUNNING.replace("PENDING", "CANCELLED"),
        f"ENQUEUED {place}",
        f"PENDING {place}",
    ]
    assert stage.causes("again") == ["first seen", "resumed", "dequeued"]


@pytest.mark.parametrize("status", ["PENDING", "ENQUEUED", "DELAYED"])
async def test_a_resume_of_a_workflow_in_flight(stage: Stage, status: str) -> None:
    """Its row goes to the queue, whether it runs or waits."""
    stage.in_flight("again", status)
    await stage.begin()
    before = stage.row("again")
    assert before.status == status
    stage.do("resume", "again", queue_name=CLOSED)

    assert await stage.look() == [("WorkflowChanged", "again")]
    row = stage.row("again")
    assert (row.status, row.queue_name, row.dequeued_at) == ("ENQUEUED", CLOSED, None)
    assert row.updated_at > before.updated_at
    assert [what.split()[0] for what in stage.history("again")] == [status, "ENQUEUED"]
    # Of one that waits in that queue already nothing but `updated_at` tells.
    cause = "changed upstream" if status == "ENQUEUED" else "resumed"
    assert stage.causes("again") == ["first seen", cause]


@pytest.mark.parametrize("outcome", ["ok", "fail"])
async def test_a_resume_of_what_is_over_changes_nothing(stage: Stage, outcome: str) -> None:
    stage.run("over", outcome)
    stage.finish("over")
    await stage.begin()
    stage.do("resume", "over")

    assert await stage.look() == []
    assert len(stage.history("over")) == 1


@pytest.mark.parametrize("outcome", ["ok", "fail"])
async def test_a_rewind(stage: Stage, outcome: str) -> None:
    stage.run("undone", outcome)
    stage.finish("undone")
    await stage.begin()
    before = stage.row("undone")
    assert stage.detail("undone").steps.count == 3
    stage.do("rewind", "undone", start_step=2, queue_name=CLOSED)

    assert await stage.look() == [("WorkflowChanged", "undone")]
    row = stage.row("undone")
    assert (row.status, row.queue_name, row.completed_at) == ("ENQUEUED", CLOSED, None)
    assert row.error is None
    assert stage.detail("undone").steps.count == 1
    assert stage.history("undone") == [f"{before.status} (executor {EXECUTOR})", WAITING]
    assert stage.causes("undone") == ["first seen", "rewound"]


@crowds
async def test_steps_that_a_rewind_discarded_and_ids_that_are_used_again(
    stage: Stage, crowd: int
) -> None:
    stage.run("undone", "fail")
    stage.finish("undone")
    await stage.begin(crowd=crowd)
    stage.do("rewind", "undone", start_step=2, queue_name=OPEN)
    stage.do("await_running", "undone")

    assert await stage.look() == [("WorkflowChanged", "undone")]
    assert stage.detail("undone").steps.count == 2
    stage.finish("undone")
    assert await stage.look() == [("WorkflowChanged", "undone")]
    detail = stage.detail("undone")
    assert (detail.steps.count, detail.steps.failed) == (3, 1)
    assert [(entry.kind, entry.what) for entry in stage.entries("undone")] == [
        ("WorkflowObserved", RUNNING.replace("PENDING", "ERROR")),
        ("StepsObserved", "3 steps, 1 failed"),
        ("WorkflowChanged", TAKEN),
        ("StepsDiscarded", "steps 3 discarded: a rewind"),
        ("StepsObserved", "2 steps"),
        ("WorkflowChanged", TAKEN.replace("PENDING", "ERROR")),
        ("StepsObserved", "3 steps, 1 failed"),
    ]
    assert stage.causes("undone") == ["first seen", "rewound", "failed"]
    assert stage.of_itself("undone")[1].unseen == ("ENQUEUED",)


@crowds
async def test_a_fork_and_its_source(stage: Stage, crowd: int) -> None:
    stage.run("source")
    stage.finish("source")
    await stage.begin(crowd=crowd)
    before = stage.row("source")
    stage.do("fork", "source", "fork", 2, CLOSED)

    assert await stage.look() == [("WorkflowObserved", "fork"), ("WorkflowChanged", "source")]
    row = stage.row("fork")
    assert (row.status, row.queue_name, row.forked_from) == ("ENQUEUED", CLOSED, "source")
    source = stage.row("source")
    assert source.was_forked_from
    assert not before.was_forked_from
    assert source.updated_at == before.updated_at
    assert [fork.workflow_id for fork in stage.detail("source").forks.items] == ["fork"]
    assert stage.history("source") == [RUNNING.replace("PENDING", "SUCCESS")] * 2
    assert stage.history("fork") == [f"ENQUEUED (queue {CLOSED})"]
    assert stage.causes("source") == ["first seen", "forked by somebody"]
    assert stage.causes("fork") == ["forked"]


async def test_a_recovery(stage: Stage) -> None:
    stage.run("survivor", queue=OPEN)
    await stage.begin(crowd=CROWD)
    assert stage.row("survivor").dequeued_at is not None
    stage.do("limit", OPEN, 0)
    stage.application.kill()
    stage.do("await_status", "survivor", "ENQUEUED")

    assert await stage.look() == [("WorkflowChanged", "survivor")]
    row = stage.row("survivor")
    assert (row.status, row.queue_name, row.dequeued_at) == ("ENQUEUED", OPEN, None)

    stage.do("limit", OPEN, None)
    stage.do("await_running", "survivor")
    assert await stage.look() == [("WorkflowChanged", "survivor")]
    assert stage.row("survivor").dequeued_at is not None
    assert stage.history("survivor") == [TAKEN, TAKEN.replace("PENDING", "ENQUEUED"), TAKEN]
    assert stage.causes("survivor") == ["first seen", "recovered", "dequeued"]


async def test_a_recovery_too_many_and_its_resume(stage: Stage) -> None:
    stage.do("start", "fragile", "fragile_stocktake", "ok")
    stage.do("await_running", "fragile")
    await stage.begin()
    stage.application.kill()
    stage.do("await_status", "fragile", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")

    assert await stage.look() == [("WorkflowChanged", "fragile")]
    row = stage.row("fragile")
    assert (row.queue_name, row.dequeued_at) == (None, None)
    assert row.completed_at == row.updated_at

    for _ in range(2):  # until nothing is read again because it is new
        stage.site.clock.ahead_ms += OVERLAP_MS
        assert await stage.look() == []
    stage.do("resume", "fragile", queue_name=CLOSED)
    assert await stage.look() == [("WorkflowChanged", "fragile")]
    assert stage.row("fragile").completed_at is None
    assert stage.history("fragile") == [
        RUNNING,
        RUNNING.replace("PENDING", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"),
        WAITING,
    ]
    assert stage.causes("fragile") == ["first seen", "recovered too often", "resumed"]


# What no filter finds, of those in flight


async def test_attributes_of_a_workflow_in_flight(stage: Stage) -> None:
    stage.do("start", "marked", "restock", "shelf-1", queue=CLOSED, attributes={"city": "Leeds"})
    await stage.begin()
    assert json.loads(stage.row("marked").attributes or "") == {"city": "Leeds"}
    stage.do("set_attributes", "marked", {"city": "Cardiff"})

    assert await stage.look() == [("WorkflowChanged", "marked")]
    assert json.loads(stage.row("marked").attributes or "") == {"city": "Cardiff"}
    assert stage.history("marked") == [WAITING] * 2
    assert stage.causes("marked") == ["first seen", "attributes set"]


@crowds
async def test_a_delete_of_a_workflow_in_flight(stage: Stage, crowd: int) -> None:
    stage.run("gone")
    await stage.begin(crowd=crowd)
    stage.do("delete", "gone")

    assert await stage.look() == [("WorkflowDeleted", "gone")]
    detail = stage.detail("gone")
    assert detail.workflow.deleted_at is not None
    assert detail.workflow.status == "PENDING"
    assert detail.steps.count == 2
    assert stage.history("gone") == [RUNNING, "gone upstream"]
    assert stage.causes("gone") == ["first seen", "deleted by somebody"]


# What only an audit finds


async def test_attributes_of_a_workflow_that_is_over(stage: Stage) -> None:
    stage.do("start", "marked", "restock", "shelf-1", attributes={"city": "Leeds"})
    stage.do("settle", "marked")
    await stage.begin()
    stage.do("set_attributes", "marked", {"city": "Cardiff"})

    assert await stage.look_anyhow() == []
    assert await stage.reread() == [("WorkflowChanged", "marked")]
    assert json.loads(stage.row("marked").attributes or "") == {"city": "Cardiff"}
    assert stage.history("marked") == [RUNNING.replace("PENDING", "SUCCESS")] * 2


async def test_a_delete_of_a_workflow_that_is_over(stage: Stage) -> None:
    stage.run("gone", "fail")
    stage.finish("gone")
    await stage.begin()
    stage.do("delete", "gone")

    assert await stage.look_anyhow() == []
    assert await stage.audit() == [("WorkflowDeleted", "gone")]
    detail = stage.detail("gone")
    assert detail.workflow.deleted_at is not None
    assert (detail.workflow.status, detail.steps.count, detail.steps.failed) == ("ERROR", 3, 1)
    assert stage.history("gone") == [RUNNING.replace("PENDING", "ERROR"), "gone upstream"]


async def test_retention(stage: Stage) -> None:
    """Conductor has it done by code that the open SDK has not."""
    old = [f"old-{number}" for number in range(3)]
    for workflow_id in old:
        stage.do("start", workflow_id, "restock", "shelf-1")
        stage.do("settle", workflow_id)
    stage.age(2 * DAY_MS)
    stage.do("start", "young", "restock", "shelf-1")
    stage.do("settle", "young")
    await stage.begin()
    stage.site.tables.change(
        "DELETE FROM workflow_status WHERE created_at < ? AND completed_at IS NOT NULL",
        now_ms() - DAY_MS,
    )

    assert await stage.look_anyhow() == []
    assert sorted(await stage.audit()) == [("WorkflowDeleted", workflow_id) for workflow_id in old]
    assert stage.row("young").deleted_at is None
    for workflow_id in old:
        assert stage.history(workflow_id)[-1] == "gone upstream"


async def test_an_import_of_an_old_workflow(stage: Stage) -> None:
    """Conductor has it done by code that the open SDK has not: a row comes back as it was."""
    stage.do("start", "old", "restock", "shelf-1")
    stage.do("settle", "old")
    stage.age(20 * DAY_MS)
    exported = stage.site.tables.named("SELECT * FROM workflow_status WHERE workflow_uuid = 'old'")
    stage.do("delete", "old")
    await stage.begin()
    stage.site.tables.add(*exported)

    assert await stage.look_anyhow() == []
    assert await stage.audit() == [("WorkflowObserved", "old")]
    row = stage.row("old")
    assert row.status == "SUCCESS"
    assert row.created_at < now_ms() - 20 * DAY_MS + HOUR_MS
    assert stage.history("old") == [RUNNING.replace("PENDING", "SUCCESS")]


async def test_an_application_that_is_renamed(stage: Stage) -> None:
    """What it has in flight is seen at once, the rest by the audit; and each once."""
    stage.do("start", "waiting", "restock", "shelf-1", queue=CLOSED)
    stage.do("start", "over", "restock", "shelf-1")
    stage.do("settle", "over")
    await stage.begin()
    stage.application.kill()
    stage.client.rename_application(APP, "boutique")
    try:
        assert await stage.look_anyhow() == [("WorkflowChanged", "waiting")]
        assert sorted(await stage.audit()) == [
            ("WorkflowChanged", "over"),
            ("WorkflowChanged", "recent"),
        ]
        assert await stage.audit() == []
    finally:
        stage.client.rename_application("boutique", APP)
    ended = RUNNING.replace("PENDING", "SUCCESS")
    for workflow_id, what in (("waiting", WAITING), ("over", ended)):
        assert stage.row(workflow_id).owning_application == "boutique"
        assert stage.history(workflow_id) == [what] * 2
        assert stage.causes(workflow_id) == ["first seen", "application renamed"]
