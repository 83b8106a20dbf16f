"""What every test can ask for: a real shop application, running or left behind on disk."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def running_shop(database: Path, orders: int = 12) -> Iterator["subprocess.Popen[str]"]:
    """A shop process on `database`, all of its orders at their end, the rest in flight."""
    command = [sys.executable, "-m", "dbos_mcp.demo.shop", "--orders", str(orders)]
    with subprocess.Popen(
        [*command, "--system-database-url", f"sqlite:///{database}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()
            process.stdin.close()
            process.wait()


@pytest.fixture(scope="session")
def shop_leftover(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a shop that ran 12 orders and was killed. Read it, or copy it."""
    database = tmp_path_factory.mktemp("shop") / "shop.sqlite"
    with running_shop(database):
        pass
    return database


@pytest.fixture
def shop_database(shop_leftover: Path, tmp_path: Path) -> Path:
    """A copy of it that the test may change. No application runs on it."""
    copy = tmp_path / "shop.sqlite"
    for leftover in shop_leftover.parent.glob("shop.sqlite*"):
        shutil.copy(leftover, copy.with_name(leftover.name))
    return copy


@pytest.fixture
def live_shop(tmp_path: Path) -> Iterator[tuple[Path, "subprocess.Popen[str]"]]:
    """A shop that is up: its database, and its process (which may be killed)."""
    database = tmp_path / "live-shop.sqlite"
    with running_shop(database) as process:
        yield database, process
