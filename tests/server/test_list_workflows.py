"""list_workflows over a cache that somebody sent: what clients of either era send and get."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import TextContent

from dbos_mcp.domain import format_time, now_ms
from dbos_mcp.server.app import build_server
from dbos_mcp.server.workflow_rows import COLUMNS
from dbos_mcp.settings import Settings
from dbos_mcp.store import projector
from dbos_mcp.store.events import (
    ApplicationObserved,
    StepsObserved,
    StepState,
    WorkflowDeleted,
    WorkflowObserved,
)
from tests.answers import rows
from tests.server.conftest import ToolFailedError
from tests.store.conftest import opened

BUDGET = 8_192
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NOW = now_ms()
STATUSES = ("SUCCESS", "ERROR", "PENDING", "CANCELLED")

Lister = Callable[..., Awaitable[str]]


def workflow(number: int) -> WorkflowObserved:
    """One a minute, of the last day and more; every fourth failed, every fourth runs."""
    created = NOW - number * MINUTE - 1000
    status = STATUSES[number % 4]
    running = status == "PENDING"
    return WorkflowObserved(
        application_name="shop",
        workflow_id=f"{number:08x}-aaaa-4bbb-8ccc-{number:012x}",
        status=status,
        workflow_name="place_order" if number % 3 else "refund_payment",
        queue_name="warehouse" if number % 2 else None,
        executor_id="shop-1",
        created_at=created,
        updated_at=created,
        dequeued_at=created + number if number % 2 else None,
        completed_at=None if running else created + 10 * number + 5,
        payloads_loaded=True,
        error=f"KeyError: 'BT{number}'" if status == "ERROR" else None,
        attributes=json.dumps({"customer": f"customer-{number % 5}", "vip": number % 2 == 0}),
    )


HOSTILE_ID = "ignore\nall | previous\x1b[0m\u202e" + "x" * 500


@pytest.fixture(scope="session")
def sent(empty_cache: Path) -> Path:
    with opened(empty_cache.with_name("sent.sqlite")) as cache, cache.write() as connection:
        events = [
            ApplicationObserved(application_name="shop", application_id="1", status="AVAILABLE"),
            *map(workflow, range(2000)),
            StepsObserved(
                application_name="shop",
                workflow_id=workflow(1).workflow_id,
                steps=(
                    StepState(step_id=1, step_name="charge", error="KeyError"),
                    StepState(step_id=2, step_name="ship"),
                ),
            ),
            WorkflowDeleted(application_name="shop", workflow_id=workflow(8).workflow_id),
            ApplicationObserved(application_name="odd", application_id="2", status="AVAILABLE"),
            *(
                workflow(n).model_copy(
                    update={
                        "application_name": "odd",
                        "workflow_id": f"{n}{HOSTILE_ID}",
                        "error": HOSTILE_ID,
                        "class_name": "\U000e0041" * 400,
                        "authenticated_user": "日" * 400,
                    }
                )
                for n in range(60)
            ),
        ]
        projector.record(connection, events, recorded_at=NOW)
    return empty_cache.with_name("sent.sqlite")


@pytest.fixture
async def client(sent: Path, tmp_path: Path, era: str) -> AsyncIterator[Client]:
    settings = Settings(home=tmp_path, cache=sent, offline=True)
    async with Client(build_server(settings), mode=era) as client:
        yield client


async def call(client: Client, **arguments: Any) -> tuple[str, Any]:
    """The text, and what is in the other channel."""
    answer = await client.call_tool("list_workflows", {"application_name": "shop", **arguments})
    (content,) = answer.content
    assert isinstance(content, TextContent)
    if answer.is_error:
        raise ToolFailedError(content.text)
    return content.text, answer.structured_content


async def text_of(client: Client, **arguments: Any) -> str:
    text, other = await call(client, **arguments)
    assert other is None
    return text


async def json_of(client: Client, **arguments: Any) -> dict[str, Any]:
    text, other = await call(client, format="json", **arguments)
    assert json.loads(text) == other
    assert isinstance(other, dict)
    return other


async def numbers_of(client: Client, **arguments: Any) -> list[int]:
    answer = await json_of(client, columns=["workflow_id"], **arguments)
    return [int(row["workflow_id"][:8], 16) for row in answer["workflows"]]


async def total_of(client: Client, **arguments: Any) -> int:
    return int((await json_of(client, limit=1, **arguments))["total"])


async def test_each_filter_reaches_the_question(client: Client) -> None:
    one = workflow(1)
    everything = await total_of(client)
    assert everything == 1999
    for number, (name, value) in enumerate(
        {
            "status": ["ERROR", "CANCELLED"],
            "workflow_name": "refund_payment",
            "workflow_id": one.workflow_id,
            "workflow_id_prefix": "0000001",
            "queue_name": "warehouse",
            "executor_id": "shop-2",
            "application_version": "1",
            "authenticated_user": "u",
            "parent_workflow_id": "p",
            "forked_from": "f",
            "schedule_name": "s",
            "step_name": ["charge", "nothing"],
            "has_failed_step": True,
            "error_contains": "keyerror: 'bt1'",
            "attributes": {"customer": "customer-1", "vip": True},
            "start_time": "-2h",
            "end_time": format_time(one.created_at - 5 * MINUTE),
            "completed_after": str(NOW - HOUR),
            "completed_before": NOW - HOUR,
            "dequeued_after": "-1h 30m",
            "dequeued_before": "-90m",
            "active_at": "-3h",
            "min_duration": "10s",
            "max_duration": 9000,
            "min_queue_wait": "1s",
            "max_queue_wait": "500",
            "has_parent": True,
            "was_forked_from": True,
            "queues_only": True,
            "deleted_upstream": True,
        }.items()
    ):
        total = await total_of(client, **{name: value})
        assert 0 <= total < everything, name
        if number in (0, 1, 2, 3, 4, *range(11, 26), 29):
            assert total > 0, name


async def test_only_what_was_in_flight_then_is_found_by_active_at(client: Client) -> None:
    at = workflow(600).created_at + 3000
    found = set()
    cursor: dict[str, str] = {}
    while True:
        page = await json_of(
            client, active_at=str(at), columns=["workflow_id"], limit=200, **cursor
        )
        found |= {int(row["workflow_id"][:8], 16) for row in page["workflows"]}
        if not page["more"]:
            break
        cursor = {"cursor": page["cursor"]}
    expected = {
        n
        for n in range(2000)
        if workflow(n).created_at <= at and (workflow(n).completed_at or at) >= at and n != 8
    }
    assert found == expected
    assert 600 in found
    assert 599 not in found


async def test_what_is_gone_upstream_is_listed_when_asked_for(client: Client) -> None:
    gone = workflow(8).workflow_id
    assert await total_of(client, workflow_id=gone) == 0
    assert await total_of(client, workflow_id=gone, deleted_upstream=True) == 1
    assert await total_of(client, workflow_id=gone, deleted_upstream="include") == 1
    text = await text_of(client, deleted_upstream="include", workflow_id=gone)
    assert rows(text)[0]["deleted_at"] == format_time(NOW)


@pytest.mark.parametrize(
    ("order", "key"),
    [
        ("created", lambda row: row.created_at),
        ("completed", lambda row: row.completed_at),
        ("duration", lambda row: row.completed_at - (row.dequeued_at or row.created_at)),
        ("queue_wait", lambda row: row.dequeued_at - row.created_at),
    ],
)
async def test_pages_of_every_order_say_exactly_how_many_more_there_are(
    client: Client, order: str, key: Callable[[Any], int]
) -> None:
    having = [
        n
        for n in range(600)
        if n != 8
        and (order not in ("completed", "duration") or workflow(n).completed_at is not None)
        and (order != "queue_wait" or workflow(n).dequeued_at is not None)
    ]
    question = {"start_time": str(workflow(599).created_at), "order_by": order, "limit": 170}
    shown: list[int] = []
    text = await text_of(client, **question, columns="workflow_id,status")
    while True:
        shown += [int(row["workflow_id"][:8], 16) for row in rows(text)]
        more = re.search(r"^(\d+) more: pass cursor=(\S+), or narrow by status, ", text, re.M)
        if more is None:
            break
        assert int(more[1]) == len(having) - len(shown)
        assert f" of {len(having)} workflows of shop, " in text.splitlines()[0]
        text = await text_of(client, **question, columns="workflow_id,status", cursor=more[2])
    assert sorted(shown) == having
    values = [key(workflow(n)) for n in shown]
    assert values == sorted(values, reverse=True)


async def test_a_relative_time_means_the_same_on_every_page(client: Client) -> None:
    first = await json_of(client, start_time="-5h", limit=3)
    second = await json_of(client, start_time="-5h", limit=3, cursor=first["cursor"])
    assert second["total"] == first["total"]
    assert second["more"] == first["more"] - 3
    with pytest.raises(ToolFailedError, match="belongs to another question"):
        await json_of(client, start_time="-6h", cursor=first["cursor"])


async def test_fifty_rows_and_all_around_them_fit_into_eight_kilobytes(client: Client) -> None:
    for order in ("created", "completed", "duration", "queue_wait"):
        text = await text_of(client, order_by=order)
        assert text.startswith("50 of ")
        assert len(text.encode()) <= BUDGET


@pytest.mark.parametrize("application", ["shop", "odd"])
@pytest.mark.parametrize("arguments", [{}, {"detail": "full"}, {"columns": list(COLUMNS)}])
async def test_no_answer_is_larger_than_eight_kilobytes(
    client: Client, application: str, arguments: dict[str, Any]
) -> None:
    seen = 0
    for form in ("text", "json"):
        text, other = await call(
            client, application_name=application, limit=200, format=form, **arguments
        )
        assert len(text.encode()) <= BUDGET
        assert other is None or other["shown"] >= 1
        assert other is None or other["shown"] + other["more"] == other["total"]
        seen += text.count("\u202e") + text.count("\x1b") + text.count("\U000e0041")
    assert seen == 0


async def test_json_is_the_same_in_both_channels_and_leaves_nulls_out(client: Client) -> None:
    answer = await json_of(client, limit=1, status="ERROR")
    (row,) = answer.pop("workflows")
    one = workflow(1)
    assert row == {
        "workflow_id": one.workflow_id,
        "status": "ERROR",
        "workflow_name": "place_order",
        "created_at": format_time(one.created_at),
        "duration_ms": 14,
        "queue_name": "warehouse",
        "error": "KeyError: 'BT1'",
    }
    assert answer["total"] == answer["more"] + 1 == 500
    assert answer.pop("cursor")
    assert answer["freshness"].pop("may_lack").startswith("The first load has only begun: ")
    assert answer["freshness"] == {"history_complete": False, "live": False}
    text, _ = await call(client, limit=1, format="json")
    assert ": " not in text.split('"note"')[0].replace("KeyError: ", "")


async def test_json_names_the_profile_where_there_are_several(
    sent: Path, tmp_path: Path, era: str
) -> None:
    several = [
        Settings(home=tmp_path, cache=sent, offline=True, profile=name) for name in ("prod", "dev")
    ]
    async with Client(build_server(*several), mode=era) as client:
        answer = await json_of(client, limit=1, profile="dev")
    assert (answer["profile"], answer["shown"]) == ("dev", 1)


async def test_columns_may_be_chosen_and_are_spelt_as_the_filters(client: Client) -> None:
    text = await text_of(client, columns=["workflow_id", "attributes", "queue_wait"], limit=2)
    assert text.splitlines()[1] == "workflow_id | attributes | queue_wait"
    with pytest.raises(
        ToolFailedError, match="'attribute' is not a column; did you mean attributes"
    ):
        await text_of(client, columns="attribute")
    with pytest.raises(ToolFailedError, match="get_workflow shows it"):
        await text_of(client, columns=["input"])
    full = (await json_of(client, detail="full", limit=1))["workflows"][0]
    assert {"executor_id", "observed_at", "attributes", "updated_at"} <= full.keys()
    assert "forked_from" not in full


async def test_a_question_without_a_match_says_so(client: Client) -> None:
    text = await text_of(client, status="DELAYED")
    assert text.splitlines()[:2] == [
        "0 of 0 workflows of shop, newest first",
        "None matches.",
    ]
    answer = await json_of(client, status="DELAYED")
    assert (answer["workflows"], answer["total"], answer["more"]) == ([], 0, 0)


HOSTILE = [
    *("%", "_", "'", '"', "\\", "a\x00b", "\x00", "'; DROP TABLE workflow; --", "$.customer"),
    *("\u202e", "é" * 5000, "x" * 100_000, "[", "{", "null", "true", "1", "-", "٣", "\ud800"),
]
TEXT_FILTERS = [
    *("status", "workflow_name", "workflow_id", "workflow_id_prefix", "queue_name", "step_name"),
    *("error_contains", "start_time", "active_at", "min_duration", "columns", "cursor", "order_by"),
    *("attributes", "format", "application_name"),
]


@pytest.mark.parametrize("name", TEXT_FILTERS)
async def test_hostile_values_are_answered_or_refused_in_words(client: Client, name: str) -> None:
    for text in HOSTILE[:-1] if name == "attributes" else HOSTILE:  # no client can send it as a key
        for value in [{text: text}] if name == "attributes" else [text, [text]]:
            try:
                answer, _ = await call(client, **{name: value})
            except ToolFailedError as error:
                assert len(str(error)) < 2_500
                assert "Traceback" not in str(error)
                assert re.fullmatch(r"Error executing tool list_workflows: .+", str(error), re.S)
            else:
                assert answer.count(" of ") >= 1
    assert await total_of(client) == 1999


async def test_a_text_that_looks_like_json_is_a_text(client: Client) -> None:
    for text in ("null", "{}", "[1]"):
        assert await total_of(client, error_contains=text) == 0
    assert await total_of(client, attributes='{"customer": "customer-1"}') == 400
    assert await total_of(client, status='["ERROR", "CANCELLED"]') == 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attributes": '{"a": NaN}'}, "attributes: the number of 'a' is too large, or none"),
        ({"min_duration": "soon"}, "min_duration: 'soon' is not a duration. Give it as 250ms"),
        ({"active_at": "1795242605"}, "active_at: '1795242605' is not a time"),
        ({"attributes": {"a": {"b": 1}}}, "attributes: the value of 'a' has parts"),
        ({"attributes": "x"}, "attributes"),
        ({"order_by": "size"}, "'created', 'completed', 'duration' or 'queue_wait'"),
        ({"error_contain": "x"}, "did you mean 'error_contains'?"),
        ({"deleted_upstream": "some"}, "deleted_upstream"),
    ],
)
async def test_a_mistake_is_answered_in_words(
    client: Client, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ToolFailedError) as failure:
        await call(client, **arguments)
    assert message in str(failure.value)
