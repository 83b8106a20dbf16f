"""How ConductorClient spares the database behind Conductor.

The event loop's clock is virtual: when nothing is left to do before a timer, it jumps there. So
waits are measured to the millisecond, and none takes any time.
"""

import asyncio
import gzip
import logging
import re
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import httpx
import pytest

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.conductor.models import (
    BulkResumeRequest,
    ForkRequest,
    StepAggregateQuery,
    WorkflowAggregateQuery,
    WorkflowSearch,
)
from dbos_mcp.conductor.traffic import TrafficCount
from dbos_mcp.domain import parse_time
from dbos_mcp.errors import (
    DbosMcpError,
    NotFoundError,
    RateLimitError,
    ResponseError,
    UnavailableError,
)

Call = Callable[[ConductorClient], Awaitable[object]]
Answer = httpx.Response | Exception


class Jumping(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0 if timeout is not None else None)
        # A clock that stands still while work is done is one that aiolimiter cannot wait for.
        self.now += 1e-6 if events or timeout is None else max(1e-6, timeout)
        return events


class VirtualTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": VirtualTime}


class Conductor(httpx.AsyncBaseTransport):
    """Answers in order, the last one for ever, each after `seconds`."""

    def __init__(self, *answers: Callable[[], Answer], seconds: float = 0.0) -> None:
        self.answers = list(answers or [well])
        self.seconds = seconds
        self.asked_at: list[float] = []
        self.paths: list[str] = []
        self.at_once = self.most_at_once = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked_at.append(anyio.current_time())
        self.paths.append(request.url.path)
        answer = (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await anyio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def waits(self) -> list[float]:
        return [b - a for a, b in zip(self.asked_at, self.asked_at[1:], strict=False)]


def well() -> Answer:
    return httpx.Response(200, json=[])


def status(code: int, retry_after: str | None = None) -> Callable[[], Answer]:
    headers = {"Content-Type": "application/problem+json"}
    if retry_after is not None:
        headers["Retry-After"] = retry_after
    return lambda: httpx.Response(code, headers=headers, content=b"{}")


def fails(kind: type[httpx.HTTPError]) -> Callable[[], Answer]:
    return lambda: kind("broken")


def client_of(conductor: Conductor, patience_seconds: float = 15.0) -> ConductorClient:
    return ConductorClient(
        "https://conductor.test",
        FixedIdentity(Credentials("acme")),
        transport=conductor,
        patience_seconds=patience_seconds,
    )


async def error_of(client: ConductorClient, call: Call) -> DbosMcpError:
    with pytest.raises(DbosMcpError) as caught:
        await call(client)
    return caught.value


def read(client: ConductorClient) -> Awaitable[object]:
    return client.list_queues("shop")


def read_bank(client: ConductorClient) -> Awaitable[object]:
    return client.list_queues("bank")


def command(client: ConductorClient) -> Awaitable[object]:
    return client.resume_workflow("shop", "w")


READS: list[Call] = [
    read,
    lambda c: c.list_applications(),
    lambda c: c.search_workflows("shop", WorkflowSearch(limit=1)),
    lambda c: c.get_workflow_aggregates("shop", WorkflowAggregateQuery(group_by_status=True)),
    lambda c: c.get_step_aggregates("shop", StepAggregateQuery(group_by_function_name=True)),
]
COMMANDS: list[Call] = [
    command,
    lambda c: c.cancel_workflow("shop", "w"),
    lambda c: c.fork_workflow("shop", "w", ForkRequest()),
    lambda c: c.delete_workflow("shop", "w"),
    lambda c: c.bulk_resume_workflows("shop", BulkResumeRequest(workflow_ids=["w"])),
    lambda c: c.trigger_schedule("shop", "s"),
    lambda c: c.set_latest_application_version("shop", "v"),
]
PASSING = {
    "refused": fails(httpx.ConnectError),
    "no connection in time": fails(httpx.ConnectTimeout),
    "no answer in time": fails(httpx.ReadTimeout),
    "not sent in time": fails(httpx.WriteTimeout),
    "no free connection": fails(httpx.PoolTimeout),
    "reset": fails(httpx.ReadError),
    "half an answer": fails(httpx.RemoteProtocolError),
    "502": status(502),
    "504": status(504),
    "429": status(429),
    "503 with a time": status(503, "1"),
}
LASTING = {
    **{str(code): status(code) for code in (400, 401, 403, 404, 409, 422, 500, 501, 503)},
    "HTML": lambda: httpx.Response(200, html="<html>"),
    "not gzip": lambda: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=Stream()),
    "our mistake": fails(httpx.LocalProtocolError),
}


class Stream(httpx.AsyncByteStream):
    """Ten bytes that are no gzip, and then perhaps a lost connection."""

    def __init__(self, *, breaks_off: bool = False) -> None:
        self.breaks_off = breaks_off

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"0123456789"
        if self.breaks_off:
            raise httpx.ReadError("reset")


# What is repeated


@pytest.mark.parametrize(
    "call", READS, ids=["GET", "GET of all", "search", "counts", "step counts"]
)
@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING)
async def test_a_read_that_fails_for_a_moment_is_tried_four_times(
    answer: Callable[[], Answer], call: Call
) -> None:
    conductor = Conductor(answer)
    async with client_of(conductor) as client:
        error = await error_of(client, call)
    assert len(conductor.asked_at) == 4
    assert type(error) in (UnavailableError, RateLimitError)
    assert conductor.asked_at[-1] - conductor.asked_at[0] < 4


@pytest.mark.parametrize("answer", LASTING.values(), ids=LASTING)
async def test_a_read_that_would_fail_again_is_tried_once(answer: Callable[[], Answer]) -> None:
    conductor = Conductor(answer)
    async with client_of(conductor) as client:
        await error_of(client, read)
    assert len(conductor.asked_at) == 1


async def test_a_read_that_works_at_the_last_try_is_an_answer() -> None:
    conductor = Conductor(status(502), fails(httpx.ReadError), status(429), well)
    async with client_of(conductor) as client:
        assert await client.list_queues("shop") == []
        assert client.traffic.snapshot().failed_requests == 3


@pytest.mark.parametrize("call", COMMANDS)
@pytest.mark.parametrize("answer", [*PASSING.values(), *LASTING.values()], ids=[*PASSING, *LASTING])
async def test_a_command_is_sent_once_whatever_happens(
    answer: Callable[[], Answer], call: Call
) -> None:
    conductor = Conductor(answer)
    async with client_of(conductor) as client:
        await error_of(client, call)
    assert len(conductor.asked_at) == 1


async def test_the_waits_between_tries_grow_and_are_never_twice_the_same() -> None:
    waits = []
    for _ in range(50):
        conductor = Conductor(status(502))
        async with client_of(conductor) as client:
            await error_of(client, read)
        waits.append(conductor.waits)
    for number, shortest in enumerate((0.1, 0.2, 0.4)):
        column = [wait[number] for wait in waits]
        ticks = 0.001  # of the virtual clock, which moves while work is done
        assert shortest <= min(column) < max(column) <= shortest + 0.4 + ticks
        assert len(set(column)) > 40


# What the server says about when


@pytest.mark.parametrize("code", [429, 503])
async def test_the_server_says_after_how_many_seconds_it_wants_to_be_asked(code: int) -> None:
    conductor = Conductor(status(code, "7"), well)
    async with client_of(conductor) as client:
        await read(client)
    assert conductor.waits == [pytest.approx(7, abs=0.001)]


async def test_the_server_says_at_what_time_it_wants_to_be_asked() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True)
    conductor = Conductor(status(429, moment), well)
    async with client_of(conductor) as client:
        await read(client)
    assert 7 < conductor.waits[0] <= 10


async def test_the_server_cannot_make_a_read_wait_for_more_than_half_a_minute() -> None:
    conductor = Conductor(status(429, "3600"), well)
    async with client_of(conductor, patience_seconds=60) as client:
        await read(client)
    assert conductor.waits == [pytest.approx(30, abs=0.001)]


async def test_a_wait_longer_than_our_patience_is_left_to_the_caller() -> None:
    conductor = Conductor(status(429, "20"))
    async with client_of(conductor) as client:
        error = await error_of(client, read)
        assert anyio.current_time() - conductor.asked_at[0] < 0.001
    assert isinstance(error, RateLimitError)
    assert error.retry_after_seconds == 20


async def test_a_server_that_has_had_too_many_requests_is_left_alone_by_every_read() -> None:
    conductor = Conductor(status(429, "7"), well)
    async with client_of(conductor) as client:
        await at_once(client, 5)
        assert conductor.asked_at[1] - conductor.asked_at[0] == pytest.approx(7, abs=0.001)

    conductor = Conductor(status(429, "20"), well)
    async with client_of(conductor) as client:
        await error_of(client, read)
        error = await error_of(client, read)
        assert isinstance(error, RateLimitError)
        assert error.retry_after_seconds == 20
        assert len(conductor.asked_at) == 1
        await anyio.sleep(20)
        assert await read(client) == []


async def test_patience_ends_in_the_middle_of_a_try() -> None:
    conductor = Conductor(status(502), seconds=6)
    async with client_of(conductor) as client:
        error = await error_of(client, read)
        assert anyio.current_time() - conductor.asked_at[0] == pytest.approx(15, abs=0.001)
    assert "502" in error.message
    assert (len(conductor.asked_at), conductor.at_once) == (3, 0)


async def test_a_slow_first_answer_is_waited_for() -> None:
    conductor = Conductor(well, seconds=29)
    async with client_of(conductor) as client:
        assert await read(client) == []


async def test_a_first_try_that_fails_after_our_patience_is_the_only_one() -> None:
    conductor = Conductor(fails(httpx.ReadTimeout), seconds=30)
    async with client_of(conductor) as client:
        await error_of(client, read)
        assert anyio.current_time() - conductor.asked_at[0] == pytest.approx(30, abs=0.001)
    assert len(conductor.asked_at) == 1


# How many


async def at_once(client: ConductorClient, number: int, call: Call = read) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(number):
            group.start_soon(call, client)  # type: ignore[arg-type]


async def test_no_more_than_four_reads_are_under_way_at_once() -> None:
    conductor = Conductor(seconds=2)
    async with client_of(conductor) as client:
        await at_once(client, 40)
    assert (len(conductor.asked_at), conductor.most_at_once) == (40, 4)


async def test_no_second_has_more_than_ten_reads_wherever_it_begins() -> None:
    conductor = Conductor(seconds=0.001)
    async with client_of(conductor) as client:
        await at_once(client, 35)
        await anyio.sleep(60)
        await at_once(client, 35)
    times = conductor.asked_at
    assert len(times) == 70
    assert min(b - a for a, b in zip(times, times[10:], strict=False)) > 0.999
    assert times[34] - times[0] == pytest.approx(3.4, abs=0.001)


async def test_repeated_reads_count_towards_the_ten() -> None:
    conductor = Conductor(status(429))
    async with client_of(conductor) as client, anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(error_of, client, read)
    times = conductor.asked_at
    assert len(times) == 40
    assert min(b - a for a, b in zip(times, times[10:], strict=False)) > 0.999


async def test_a_command_does_not_wait_behind_reads() -> None:
    conductor = Conductor(seconds=5)
    async with client_of(conductor) as client, anyio.create_task_group() as group:
        group.start_soon(at_once, client, 30)
        await anyio.sleep(1)
        before = anyio.current_time()
        for _ in range(20):
            group.start_soon(command, client)  # type: ignore[arg-type]
        await anyio.sleep(0.001)
        resumed = [
            at for at, path in zip(conductor.asked_at, conductor.paths, strict=True)
            if path.endswith("/resume")
        ]  # fmt: skip
        assert resumed == [pytest.approx(before, abs=0.001)] * 20
        group.cancel_scope.cancel()


# Pausing


async def failing(client: ConductorClient, times: int, call: Call = read) -> None:
    for _ in range(times):
        await error_of(client, call)


async def test_after_five_failed_reads_the_next_fails_at_once_and_says_until_when() -> None:
    conductor = Conductor(status(503))
    async with client_of(conductor) as client:
        await failing(client, 5)
        error = await error_of(client, read)
    assert len(conductor.asked_at) == 5
    assert type(error) is UnavailableError
    assert error.message.startswith("Application 'shop' has no healthy executor connected.")
    since, until = map(parse_time, re.findall(r"\d{4}-\S+Z", error.message))
    now = datetime.now(UTC).timestamp() * 1000
    assert abs(since - now) < 5000
    assert abs(until - now - 15_000) < 5000
    assert error.hint


async def test_a_pause_is_of_one_application_alone() -> None:
    conductor = Conductor(status(503))
    async with client_of(conductor) as client:
        await failing(client, 5)
        conductor.answers = [well]
        assert await read_bank(client) == []
        assert await client.list_applications() == []
        await failing(client, 1)


async def test_the_calls_of_the_organization_pause_on_their_own() -> None:
    conductor = Conductor(status(503))
    async with client_of(conductor) as client:
        await failing(client, 5, lambda c: c.list_applications())
        conductor.answers = [well]
        assert "failing since" in str(await error_of(client, lambda c: c.list_applications()))
        assert await read(client) == []


async def test_after_the_pause_one_read_goes_through_and_the_others_still_fail() -> None:
    conductor = Conductor(status(503))
    async with client_of(conductor) as client:
        await failing(client, 5)
        await anyio.sleep(15)
        conductor.answers, conductor.seconds = [well], 1
        async with anyio.create_task_group() as group:
            group.start_soon(read, client)  # type: ignore[arg-type]
            await anyio.sleep(0.5)
            await failing(client, 3)
        assert len(conductor.asked_at) == 6
        await at_once(client, 3)
        assert len(conductor.asked_at) == 9


async def test_each_failed_probe_is_one_request_and_doubles_the_pause_up_to_five_minutes() -> None:
    conductor = Conductor(fails(httpx.ConnectError))
    async with client_of(conductor) as client:
        await failing(client, 5)
        assert len(conductor.asked_at) == 20
        for number, pause in enumerate([15, 30, 60, 120, 240, 300, 300]):
            await anyio.sleep(pause - 0.5)
            await failing(client, 1)
            assert len(conductor.asked_at) == 20 + number
            await anyio.sleep(0.5)
            await failing(client, 1)
            assert len(conductor.asked_at) == 21 + number
        conductor.answers = [well]
        await anyio.sleep(300)
        await read(client)
        conductor.answers = [status(503)]
        await failing(client, 5)
        conductor.answers = [well]
        await anyio.sleep(15)
        await read(client)


async def test_a_person_may_ask_again_during_a_pause_and_makes_it_no_longer() -> None:
    conductor = Conductor(status(503))
    async with client_of(conductor) as client:
        await failing(client, 5)
        for number in range(1, 4):
            await failing(client, 1)
            assert len(conductor.asked_at) == 5 + number - 1
            client.traffic.ask_again("shop")
            await failing(client, 2)
            assert len(conductor.asked_at) == 5 + number
        await anyio.sleep(14.5)
        await failing(client, 1)
        assert len(conductor.asked_at) == 8
        await anyio.sleep(0.5)
        conductor.answers = [well]
        await read(client)


async def test_asking_again_lifts_no_limit_where_there_is_no_pause() -> None:
    conductor = Conductor(status(503))
    async with client_of(conductor) as client:
        await failing(client, 4)
        client.traffic.ask_again("shop")
        await failing(client, 1)
        await failing(client, 1)
        assert len(conductor.asked_at) == 5


async def test_traffic_is_told_by_application() -> None:
    conductor = Conductor()
    async with client_of(conductor) as client:
        await read(client)
        await read_bank(client)
        await client.list_applications()
        counts = client.traffic.by_application()
        assert {name: count.requests for name, count in counts.items()} == {
            "shop": 1, "bank": 1, None: 1,
        }  # fmt: skip


async def test_only_failures_in_a_row_lead_to_a_pause() -> None:
    conductor = Conductor(status(503))
    async with client_of(conductor) as client:
        for answer in (well, status(404), status(429), status(500)):
            conductor.answers = [status(503)]
            await failing(client, 4)
            conductor.answers = [answer]
            await (read(client) if answer is well else error_of(client, read))
        conductor.answers = [status(503)]
        await failing(client, 4)
        conductor.answers = [well]
        assert await read(client) == []


async def test_reads_that_wait_for_their_turn_when_the_pause_begins_are_not_sent() -> None:
    conductor = Conductor(status(503))
    async with client_of(conductor) as client, anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(error_of, client, read)
    assert len(conductor.asked_at) <= 5 + 4


async def test_a_read_from_before_the_pause_that_fails_in_it_does_not_prolong_it() -> None:
    conductor = Conductor(status(503), seconds=14)
    async with client_of(conductor) as client, anyio.create_task_group() as group:
        group.start_soon(error_of, client, read)
        await anyio.sleep(1)
        conductor.seconds = 0
        await failing(client, 5)
        await anyio.sleep(15)
        conductor.answers = [well]
        assert await read(client) == []


async def test_a_command_passes_through_a_pause_and_its_success_ends_it() -> None:
    conductor = Conductor(status(503))
    async with client_of(conductor) as client:
        await failing(client, 5)
        error = await error_of(client, command)
        assert "failing since" not in str(error)
        await failing(client, 1)
        assert len(conductor.asked_at) == 6
        conductor.answers = [well]
        await command(client)
        assert await read(client) == []


async def test_failed_commands_lead_to_no_pause() -> None:
    conductor = Conductor(status(502))
    async with client_of(conductor) as client:
        await failing(client, 9, command)
        conductor.answers = [well]
        assert await read(client) == []


# Giving up


@pytest.mark.parametrize("when", [0.05, 0.35, 1.0, 3.0])
async def test_a_read_that_is_given_up_leaves_its_turn_to_others(when: float) -> None:
    """While it waits for its turn, for the pace, for the answer, or for the next try."""
    conductor = Conductor(status(503, "5"), seconds=2)
    async with client_of(conductor) as client:
        with anyio.move_on_after(when):
            await at_once(client, 12)
        assert conductor.at_once == 0
        conductor.answers, conductor.asked_at, conductor.most_at_once = [well], [], 0
        before = anyio.current_time()
        await at_once(client, 4)
        assert conductor.most_at_once == 4
        assert anyio.current_time() - before < 2.5


async def test_a_probe_that_is_given_up_lets_the_next_read_probe() -> None:
    conductor = Conductor(status(503))
    async with client_of(conductor) as client:
        await failing(client, 5)
        await anyio.sleep(15)
        conductor.answers, conductor.seconds = [well], 10
        with anyio.move_on_after(1) as scope:
            await read(client)
        assert scope.cancelled_caught
        assert await read(client) == []


# Counting


async def test_requests_and_bytes_are_counted_by_application_and_in_all() -> None:
    conductor = Conductor()
    async with client_of(conductor) as client:
        assert client.traffic.snapshot() == client.traffic.snapshot("shop") == TrafficCount()
        await read(client)
        await client.search_workflows("shop", WorkflowSearch(limit=1))
        await command(client)
        await read_bank(client)
        await client.list_applications()
        conductor.answers = [status(404)]
        assert isinstance(await error_of(client, read), NotFoundError)
        traffic = client.traffic
        sent = len('{"limit":1}') + len("{}")
        assert traffic.snapshot("shop") == TrafficCount(4, 1, sent, 3 * len("[]") + len("{}"))
        assert traffic.snapshot("bank") == TrafficCount(1, 0, 0, len("[]"))
        assert traffic.snapshot() == TrafficCount(6, 1, sent, 5 * len("[]") + len("{}"))
        assert traffic.snapshot("unknown") == TrafficCount()


async def test_bytes_are_those_on_the_wire_also_of_an_answer_that_broke_off() -> None:
    squeezed = gzip.compress(b"[" + b" " * 100_000 + b"]")
    conductor = Conductor(
        lambda: httpx.Response(
            200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(squeezed)
        ),
        lambda: httpx.Response(200, stream=Stream(breaks_off=True)),
        well,
    )
    async with client_of(conductor) as client:
        await read(client)
        assert client.traffic.snapshot("shop").bytes_received == len(squeezed) < 1000
        await read(client)
        assert client.traffic.snapshot("shop") == TrafficCount(3, 1, 0, len(squeezed) + 10 + 2)


async def test_an_answer_that_cannot_be_used_is_a_failed_request() -> None:
    async with client_of(Conductor(LASTING["HTML"])) as client:
        assert isinstance(await error_of(client, read), ResponseError)
        assert client.traffic.snapshot("shop").failed_requests == 1


# Quiet


async def test_a_repeated_read_prints_nothing_and_logs_only_its_requests(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with client_of(Conductor(status(502))) as client:
        await error_of(client, read)
    assert capfd.readouterr() == ("", "")
    assert {record.name for record in caplog.records} == {"httpx"}
    assert len(caplog.records) == 4
