"""One process syncs, however many share the cache and however they end."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dbos_mcp.domain import now_ms
from dbos_mcp.sync.leadership import Leadership
from tests.upstream import Tables, workflow

ROOT = Path(__file__).parents[2]


class Member:
    """A process that looks whose turn it is when it is told to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def looks(self) -> str:
        self.tell("look")
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


Members = Callable[[int], list[Member]]


@pytest.fixture
def members(shop_database: Path, cache_path: Path) -> Iterator[Members]:
    with ExitStack() as stack:

        def start(count: int) -> list[Member]:
            command = [sys.executable, "-m", "tests.sync.one_of_many"]
            started = []
            for _ in range(count):
                process = subprocess.Popen(
                    [*command, str(shop_database), str(cache_path)],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                stack.enter_context(process)
                stack.callback(process.kill)
                started.append(Member(process))
            for member in started:
                assert member.hear() == "ready"
            return started

        yield start


@pytest.mark.e2e
def test_one_process_leads_also_while_it_is_stopped_until_it_is_killed(
    members: Members, shop_database: Path, cache_path: Path
) -> None:
    leadership, tables = Leadership(cache_path), Tables(shop_database)
    assert leadership.taken() is False
    leader, *followers = members(3)
    assert leader.looks() == "leads, sees 53"
    assert leadership.taken() is True

    leader.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, leader.process.pid, os.WSTOPPED | os.WNOWAIT)
    assert {member.looks() for member in followers} == {"follows, sees 53"}
    leader.process.send_signal(signal.SIGCONT)

    for killed, command in enumerate(("look", "hang")):
        # The others see at once what the leader has found, and do not lead.
        tables.add(workflow(f"new-{killed}", now_ms()))
        assert leader.looks() == f"leads, sees {54 + killed}"
        assert {member.looks() for member in followers} == {f"follows, sees {54 + killed}"}
        leader.tell(command)
        assert leader.hear() in (f"leads, sees {54 + killed}", "in the middle of a cycle")
        leader.kill()
        assert leadership.taken() is False
        # The first to look leads.
        leader, *followers = reversed(followers)
        assert leader.looks() == f"leads, sees {54 + killed}"


def test_whether_somebody_leads_can_be_seen_without_taking_part(tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    one, other = Leadership(cache), Leadership(cache)
    assert one.taken() is False
    assert list(tmp_path.iterdir()) == []
    assert one.take()
    assert not other.take()
    assert (one.taken(), other.taken()) == (True, True)
    one.release()
    assert (one.taken(), other.taken()) == (False, False)
    assert other.take()
    assert not one.take()
    other.release()
