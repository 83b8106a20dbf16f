"""What every test can ask for: a real shop application, running or left behind on disk."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbos_mcp.store.migrate import open_cache
from tests.oauth_server import OAuthServer, running_oauth_server
from tests.upstream import Site, Tables, open_site


def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: half of their time is spent on waiting for processes, networks and disks, so
    one more than there are cores."""
    return min(4, (os.cpu_count() or 1) + 1)


@pytest.fixture(scope="session", autouse=True)
def home_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test finds the settings, profiles and logins of whoever runs it."""
    with pytest.MonkeyPatch.context() as environ:
        for name in [*filter(lambda name: name.startswith("DBOS_"), os.environ)]:
            environ.delenv(name)
        environ.delenv("XDG_CONFIG_HOME", raising=False)
        environ.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first answer waits for the first look, however busy the machine that runs the tests is."""
    monkeypatch.setattr("dbos_mcp.server.context.FIRST_ANSWER_SECONDS", 60.0)


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


@pytest.fixture(scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copied, not used: migrating a cache for each test would take longer than the test."""
    path = tmp_path_factory.mktemp("cache") / "empty.sqlite"
    open_cache(path).close()
    return path


@pytest.fixture
def new_cache(empty_cache: Path, tmp_path: Path) -> Callable[[object], Path]:
    return lambda name: Path(shutil.copy(empty_cache, tmp_path / f"cache-{name}.sqlite"))


@pytest.fixture
def cache_path(new_cache: Callable[[object], Path]) -> Path:
    return new_cache("of-the-test")


@pytest.fixture
def empty_database(shop_database: Path) -> Path:
    """A real system database without a workflow."""
    Tables(shop_database).clear()
    return shop_database


@pytest.fixture
async def site(shop_database: Path, cache_path: Path) -> AsyncIterator[Site]:
    """A shop left behind, and an empty mirror of it."""
    async with open_site(shop_database, cache_path) as site:
        yield site


@pytest.fixture
def oauth_server() -> Iterator[OAuthServer]:
    with running_oauth_server() as server:
        yield server
