"""Pages of workflows, and one workflow with its relatives and its steps."""

import base64
import json
import random
from pathlib import Path

import pytest
from sqlalchemy import Connection

from dbos_mcp.domain import now_ms
from dbos_mcp.errors import InvalidCursorError, NotFoundError
from dbos_mcp.queries.applications import list_applications, list_executors
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.paging import Cursor, Order, OrderBy, name_of
from dbos_mcp.queries.steps import list_steps
from dbos_mcp.queries.workflow import RELATIVES, get_workflow
from dbos_mcp.queries.workflows import (
    WorkflowItem,
    WorkflowPage,
    holds,
    list_workflows,
)
from dbos_mcp.store.projections.steps import StepRow
from tests.upstream import APP, Site, open_site, pickled, workflow

EVERYTHING = WorkflowFilter(application_name=APP, deleted_upstream=False)


def page_of(site: Site, cursor: Cursor | None = None, limit: int = 3) -> WorkflowPage:
    with site.cache.read() as connection:
        return list_workflows(connection, EVERYTHING, limit=limit, cursor=cursor)


# Pages


@pytest.mark.parametrize("limit", [1, 4, 9, 1000])
def test_pages_show_every_workflow_once_newest_first(connection: Connection, limit: int) -> None:
    """Also the ten of one millisecond."""
    shown: list[WorkflowItem] = []
    cursor, more = None, 1
    while more:
        page = list_workflows(connection, EVERYTHING, limit=limit, cursor=cursor)
        assert len(page.items) <= limit
        assert page.left == page.total - len(shown)
        shown += page.items
        more, cursor = page.more_than(len(page.items)), page.cursors[-1]
    assert len(shown) == len({item.workflow_id for item in shown}) == page.total
    assert shown == sorted(shown, key=lambda item: (-item.created_at, -item.key))


async def test_pages_hold_while_new_workflows_arrive_and_others_go(site: Site) -> None:
    await site.sync()
    before = [item.workflow_id for item in page_of(site, limit=1000).items]
    shown: list[str] = []
    cursor, more, count = None, 1, 0
    while more:
        page = page_of(site, cursor)
        shown += [item.workflow_id for item in page.items]
        more, cursor = page.more_than(len(page.items)), page.cursors[-1]
        count += 1
        if count % 5 == 0:
            site.tables.add(workflow(f"new-{count}", now_ms()))
            await site.sync()
    assert count > 10
    assert shown == before


async def test_a_page_can_be_continued_from_any_of_its_rows(site: Site) -> None:
    await site.sync()
    whole = [item.workflow_id for item in page_of(site, limit=10).items]
    start = page_of(site, limit=10).cursors[3]
    assert [item.workflow_id for item in page_of(site, start, limit=6).items] == whole[4:]


def test_a_cursor_of_another_question_or_order_is_refused(connection: Connection) -> None:
    cursor = list_workflows(connection, EVERYTHING, limit=1).cursors[0]
    failed = EVERYTHING.model_copy(update={"status": ("ERROR",)})
    for question, order in (
        (failed, Order()),
        (EVERYTHING, Order(descending=False)),
        (EVERYTHING, Order(OrderBy.COMPLETED)),
    ):
        with pytest.raises(InvalidCursorError, match="belongs to another question"):
            list_workflows(connection, question, order=order, limit=1, cursor=cursor)


def test_a_cursor_keeps_when_its_question_was_first_asked(connection: Connection) -> None:
    first = list_workflows(connection, EVERYTHING, limit=1, asked_at=1234)
    second = list_workflows(
        connection, EVERYTHING, limit=1, cursor=first.cursors[0], asked_at=999_999
    )
    assert {cursor.asked_at for cursor in (*first.cursors, *second.cursors)} == {1234}


GARBAGE = [
    "", " ", "x", "!!!!", "[]", "W10", "bnVsbA", "WzEsMl0=x", "é", "\ud800", "e30", "A" * 10_000,
    "MQ", "W3RydWUsMV0", "WzEuNSwxXQ", "WzFd", "WzEsMiwzXQ", "WzEsMl0", "WzEsMiwzLDRd",
    "WzEsMiwieCIsbnVsbF0",
]  # fmt: skip


@pytest.mark.parametrize("text", GARBAGE)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidCursorError):
        Cursor.decode(text)


def test_no_garbage_does_worse_than_being_refused(connection: Connection) -> None:
    dice = random.Random(20261121)
    name = name_of(EVERYTHING, Order())
    valid = Cursor(1_790_000_000_000, 7, name, 0).encode()
    for _ in range(300):
        text = list(valid)
        for _ in range(dice.randint(1, 4)):
            text[dice.randrange(len(text))] = chr(dice.choice([dice.randrange(33, 127), 0x2028]))
        numbers = [dice.choice([-1, 1]) * 10 ** dice.randrange(40) for _ in range(3)]
        parts = [*numbers[:2], name, numbers[2]]
        huge = base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()
        for encoded in ("".join(text), huge.rstrip("="), huge):
            try:
                cursor = Cursor.decode(encoded)
                list_workflows(connection, EVERYTHING, limit=1, cursor=cursor)
            except InvalidCursorError as error:
                assert len(str(error)) < 400


def test_a_cursor_is_the_place_it_was_made_of() -> None:
    for place in (Cursor(0, 1, "a", 2), Cursor(-5, 2**63 - 1, "", 0), Cursor(10**12, 123, "b", 1)):
        assert Cursor.decode(place.encode()) == place


# What is not there


def test_an_unknown_application_is_answered_with_those_that_are_known(
    connection: Connection,
) -> None:
    for ask in (
        lambda: list_workflows(connection, WorkflowFilter(application_name="shed"), limit=1),
        lambda: get_workflow(connection, "shed", "order-1001"),
        lambda: list_steps(connection, "shed", "order-1001"),
        lambda: list_executors(connection, "shed"),
    ):
        with pytest.raises(NotFoundError) as caught:
            ask()
        assert "'shed'" in str(caught.value)
        assert "Known: shop." in str(caught.value)


def test_an_unknown_workflow_is_not_found(connection: Connection) -> None:
    assert holds(connection, APP, "order-1001")
    assert not holds(connection, APP, "nobody")
    with pytest.raises(NotFoundError):
        get_workflow(connection, APP, "nobody")
    with pytest.raises(NotFoundError):
        list_steps(connection, APP, "nobody")


async def test_deleted_workflows_are_not_listed_but_shown(site: Site) -> None:
    await site.sync()
    total = page_of(site).total
    await site.client.delete_workflow(APP, "reconcile-1")
    await site.sync()
    assert page_of(site).total == total - 1
    with site.cache.read() as connection:
        detail = get_workflow(connection, APP, "reconcile-1")
        steps = list_steps(connection, APP, "reconcile-1")
        (application,) = list_applications(connection)
    assert detail.workflow.status == "PENDING"
    assert detail.workflow.deleted_at is not None
    assert steps.items
    assert not steps.may_have_changed
    assert application.workflows == total - 1


# One workflow


def test_relatives_and_steps_are_counted(connection: Connection) -> None:
    parent = get_workflow(connection, APP, "Tie_0")
    assert [child.workflow_id for child in parent.children.items] == ["child-1", "child-2"]
    assert (parent.children.total, parent.forks.total) == (2, 0)
    source = get_workflow(connection, APP, "order-1001")
    assert [fork.workflow_id for fork in source.forks.items] == ["fork"]
    assert source.workflow.was_forked_from
    failed = get_workflow(connection, APP, "order-1005")
    assert failed.steps.count > 3
    assert failed.steps.failed >= 1
    assert "'BT'" in (failed.workflow.error or "")


async def test_of_many_relatives_the_first_are_shown(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path) as site:
        now = now_ms()
        site.tables.add(
            workflow("parent", now),
            *(workflow(f"child-{n}", now + n, parent_workflow_id="parent") for n in range(30)),
        )
        await site.sync()
        with site.cache.read() as connection:
            children = get_workflow(connection, APP, "parent").children
    assert children.total == 30
    assert [child.workflow_id for child in children.items] == [
        f"child-{n}" for n in range(RELATIVES)
    ]


# Steps


async def test_steps_before_and_after_they_were_read(site: Site) -> None:
    site.tables.update("order-1001", created_at=now_ms() - 3_600_000)  # so others come first
    await site.sync()
    with site.cache.read() as connection:
        never = list_steps(connection, APP, "order-1001")
        failed = list_steps(connection, APP, "order-1005")
        running = list_steps(connection, APP, "reconcile-1")
    assert (never.items, never.read_at, never.may_have_changed) == ([], None, True)
    assert not failed.may_have_changed
    assert [step.step_id for step in failed.items] == sorted(s.step_id for s in failed.items)
    assert any(step.error for step in failed.items)
    assert all(step.duration_ms is not None for step in failed.items)
    assert running.may_have_changed
    assert running.read_at is not None

    await site.mirror.refresh_steps(APP, "order-1001")
    with site.cache.read() as connection:
        read = list_steps(connection, APP, "order-1001")
    assert read.items
    assert not read.may_have_changed
    site.tables.update("order-1001", updated_at=now_ms() + 1)
    await site.mirror.refresh_workflows(APP, ["order-1001"])
    with site.cache.read() as connection:
        assert list_steps(connection, APP, "order-1001").may_have_changed


async def test_a_workflow_without_steps_was_read_all_the_same(site: Site) -> None:
    error = pickled(RuntimeError("no"))
    site.tables.add(workflow("stepless", now_ms(), "ERROR", error=error))
    await site.sync()
    with site.cache.read() as connection:
        steps = list_steps(connection, APP, "stepless")
    assert steps.items == []
    assert steps.read_at is not None
    assert not steps.may_have_changed
    assert "stepless" not in {row["workflow_key"] for row in site.table(StepRow)}
