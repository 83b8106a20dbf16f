"""How politely Conductor is asked: someone's production database is behind it.

Reads take turns (few at once, few a second), are repeated when what failed may be over in a moment,
and stop for a while after they failed often. Commands do none of this: a person asked for them, so
each goes out at once, and once. Both are counted.
"""

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, fields
from typing import TypeVar

import anyio
import stamina
import stamina.instrumentation
from aiolimiter import AsyncLimiter

from dbos_mcp.domain import format_time, now_ms
from dbos_mcp.errors import DbosMcpError, RateLimitError, UnavailableError

T = TypeVar("T")

READS_AT_ONCE = 4
READS_PER_SECOND = 10
TRIES = 4
PATIENCE_SECONDS = 15.0
LONGEST_RETRY_AFTER_SECONDS = 30.0
FAILURES_TO_OPEN = 5
FIRST_PAUSE_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 300.0

# stamina would log each retry, or print it: where structlog is installed, to stdout by default.
stamina.instrumentation.set_on_retry_hooks([])


@dataclass(frozen=True)
class TrafficCount:
    """What went out and what came back; bytes are those of bodies, as they were on the wire."""

    requests: int = 0
    failed_requests: int = 0
    """Without an answer, or with one that is an error."""
    bytes_sent: int = 0
    bytes_received: int = 0


class Traffic:
    """Of one client. An application is named; None stands for what concerns them all.

    `patience_seconds` limits what repeating adds to a read: beyond them no try begins, and one that
    runs is given up. The first try has only the client's own time-outs, so that a slow answer,
    which costs the database as much when it is asked for again, is waited for.
    """

    def __init__(
        self,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        reads_per_second: float = READS_PER_SECOND,
    ) -> None:
        self.patience_seconds = patience_seconds
        self._at_once = anyio.Semaphore(READS_AT_ONCE)
        # One at a time rather than ten: a bucket of ten lets twenty through in its first second.
        self._pace = AsyncLimiter(1, 1 / reads_per_second)
        self._breakers: defaultdict[str | None, _Breaker] = defaultdict(_Breaker)
        self._limit: RateLimitError | None = None
        self._limited_until = -math.inf
        self._counts: defaultdict[str | None, _Count] = defaultdict(_Count)

    async def read(self, application_name: str | None, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` returns, perhaps at its fourth try.

        Raises:
            UnavailableError: also without asking, while reads of the application pause.
            RateLimitError: also without asking, when the wait that was asked for is long.
        """
        self._refuse_while_limited()
        breaker = self._breakers[application_name]
        probe = breaker.admit()
        try:
            answer = await self._ask_in_turn(application_name, ask, probe=probe)
        except UnavailableError as error:
            breaker.failed(error, probe=probe)
            raise
        except DbosMcpError:
            breaker.close()  # a refusal is an answer
            raise
        finally:
            if probe:
                breaker.probing = False
        breaker.close()
        return answer

    async def command(self, application_name: str | None, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` returns, asked at once and once."""
        answer = await self._ask(application_name, ask)
        self._breakers[application_name].close()
        return answer

    async def turn(self) -> None:
        """For each of many commands: wait for a place among the reads before it is asked."""
        async with self._pace:
            pass

    def ask_again(self, application_name: str | None) -> None:
        """A person asks for it: end the pause after failures, so that the next read probes at once.
        A server that wants to be left alone still is."""
        if application_name in self._breakers:
            self._breakers[application_name].ask_again()

    def transferred(
        self, application_name: str | None, *, bytes_sent: int = 0, bytes_received: int = 0
    ) -> None:
        count = self._counts[application_name]
        count.bytes_sent += bytes_sent
        count.bytes_received += bytes_received

    def snapshot(self, application_name: str | None = None) -> TrafficCount:
        """So far, of one application; None is everything, with what concerns no application."""
        if application_name is None:
            return _total(self._counts.values())
        return _total([self._counts[application_name]] if application_name in self._counts else [])

    def by_application(self) -> dict[str | None, TrafficCount]:
        """So far; what concerns no application is under None."""
        return {name: _total([count]) for name, count in self._counts.items()}

    async def _ask_in_turn(
        self, application_name: str | None, ask: Callable[[], Awaitable[T]], *, probe: bool
    ) -> T:
        breaker = self._breakers[application_name]
        give_up_at = math.inf
        failure: DbosMcpError | None = None

        def may_repeat(error: Exception) -> bool | float:
            if not isinstance(error, RateLimitError | UnavailableError) or not error.passing:
                return False
            if error.retry_after_seconds is None:
                return anyio.current_time() < give_up_at
            wait = min(error.retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS)
            return wait if anyio.current_time() + wait < give_up_at else False

        async for attempt in stamina.retry_context(
            may_repeat,
            attempts=1 if probe else TRIES,
            timeout=None,  # its own would let a wait begin that ends too late
            wait_initial=0.1,
            wait_jitter=0.4,
        ):
            # No permit is held while it waits for the next try.
            with attempt, anyio.CancelScope(deadline=give_up_at):
                async with self._at_once, self._pace:
                    await anyio.sleep_until(self._limited_until)
                    if not probe:
                        breaker.refuse_while_open()  # it may have opened while this one waited
                    if failure is None:
                        give_up_at = anyio.current_time() + self.patience_seconds
                    try:
                        return await self._ask(application_name, ask)
                    except DbosMcpError as error:
                        failure = error
                        self._note_limit(error)
                        raise
        raise failure or AssertionError("only a try that follows a failure is given up")

    def _note_limit(self, error: DbosMcpError) -> None:
        """The server says how long it wants to be left alone: that concerns every read."""
        if isinstance(error, RateLimitError) and error.retry_after_seconds is not None:
            wait = min(error.retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS)
            self._limit = error
            self._limited_until = max(self._limited_until, anyio.current_time() + wait)

    def _refuse_while_limited(self) -> None:
        left = self._limited_until - anyio.current_time()
        if self._limit is not None and left > self.patience_seconds:
            raise RateLimitError(
                self._limit.message, hint=self._limit.hint, retry_after_seconds=math.ceil(left)
            )

    async def _ask(self, application_name: str | None, ask: Callable[[], Awaitable[T]]) -> T:
        count = self._counts[application_name]
        count.requests += 1
        try:
            return await ask()
        except DbosMcpError:
            count.failed_requests += 1
            raise


class _Breaker:
    """Stops the reads of one application after several failed in a row, then lets one through.

    Our own, because of those that are kept up none fits: pybreaker knows no asyncio, circuitbreaker
    and purgatory no single probe and no pause that grows.
    """

    def __init__(self) -> None:
        self.probing = False
        self.close()

    def close(self) -> None:
        self._failures = 0
        self._failing_since = 0
        self._failure: UnavailableError | None = None
        self._pause_seconds = FIRST_PAUSE_SECONDS
        self._pause_ends_at: float | None = None
        self._asked_again = False

    def ask_again(self) -> None:
        """End the pause. A probe that fails after that does not make the next one longer."""
        if self._pause_ends_at is not None:
            self._pause_ends_at = anyio.current_time()
            self._asked_again = True

    def admit(self) -> bool:
        """Whether the read that begins now is the one that probes.

        Raises:
            UnavailableError: it may not begin.
        """
        if self._pause_ends_at is None:
            return False
        if self.probing or anyio.current_time() < self._pause_ends_at:
            self.refuse_while_open()
        self.probing = True
        return True

    def refuse_while_open(self) -> None:
        if self._failure is None or self._pause_ends_at is None:
            return
        left_ms = max(0, round((self._pause_ends_at - anyio.current_time()) * 1000))
        raise UnavailableError(
            f"{self._failure.message} It has been failing since {format_time(self._failing_since)} "
            f"and will be tried again at {format_time(now_ms() + left_ms)}.",
            hint=self._failure.hint,
        )

    def failed(self, error: UnavailableError, *, probe: bool) -> None:
        if self._pause_ends_at is not None and not probe:
            return  # it began before the pause
        self._failures += 1
        self._failing_since = self._failing_since or now_ms()
        self._failure = error
        if probe and not self._asked_again:
            self._pause_seconds = min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        self._asked_again = False
        if self._failures >= FAILURES_TO_OPEN:
            self._pause_ends_at = anyio.current_time() + self._pause_seconds


@dataclass
class _Count:
    requests: int = 0
    failed_requests: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


def _total(counts: Iterable[_Count]) -> TrafficCount:
    held = list(counts)
    return TrafficCount(
        *(sum(getattr(count, field.name) for count in held) for field in fields(TrafficCount))
    )
