"""A local Conductor over what a real shop left behind, on SQLite and on PostgreSQL."""

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from dbos_mcp.local_conductor.app import create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from tests.local_conductor.openapi import check_response
from tests.postgres import running_postgres

ORG = "http://local/v2/orgs/local"


class Tables:
    """Statements on the system tables themselves, past the API."""

    def __init__(self, url: str) -> None:
        options = {}
        if url.startswith("postgresql"):
            options["connect_args"] = {"options": "-csearch_path=dbos"}
            url = url.replace("postgresql:", "postgresql+psycopg:")
        self.engine = sa.create_engine(url, poolclass=NullPool, **options)

    def rows(self, statement: str, **values: Any) -> Sequence[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement), values)]

    def column(self, statement: str, **values: Any) -> list[Any]:
        return [value for (value,) in self.rows(statement, **values)]

    def change(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), values)


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, f"still not so after {seconds} s"
        Event().wait(0.05)


@pytest.fixture(scope="session")
def postgres_leftover() -> Iterator[str]:
    """The URL (a template, for the database's name) of a server whose database `leftover` a shop
    has left behind."""
    with running_postgres() as url:
        command = [sys.executable, "-m", "dbos_mcp.demo.shop", "--orders", "12"]
        with subprocess.Popen(
            [*command, "--system-database-url", url.format("leftover")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as shop:
            assert shop.stdout is not None
            assert shop.stdout.readline() == "ready\n"
            shop.kill()
            shop.communicate()
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """A shop's system database that the test may change. No application runs on it."""
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('shop_database')}"
    server: str = request.getfixturevalue("postgres_leftover")
    name = f"shop_{uuid4().hex}"
    engine = sa.create_engine(
        server.format("postgres").replace("postgresql:", "postgresql+psycopg:"),
        isolation_level="AUTOCOMMIT",
        poolclass=NullPool,
    )

    def copy() -> bool:
        try:
            with engine.connect() as connection:
                connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE leftover"))
        except sa.exc.OperationalError:  # the killed shop's sessions are still ending
            return False
        return True

    wait_until(copy)
    return server.format(name)


@pytest.fixture
def tables(url: str) -> Tables:
    return Tables(url)


@pytest.fixture
def system_database(url: str) -> Iterator[SystemDatabase]:
    database = SystemDatabase(url)
    yield database
    database.close()


@pytest.fixture
async def shop(system_database: SystemDatabase) -> AsyncIterator[httpx.AsyncClient]:
    """The API below the application `shop`. Each answer is held against the OpenAPI document."""
    async with open_client(system_database, f"{ORG}/apps/shop") as client:
        yield client


def open_client(system_database: SystemDatabase, base_url: str = ORG) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(system_database)),
        base_url=base_url,
        event_hooks={"response": [check_response]},
    )


@pytest.fixture
def missing_file(tmp_path: Path) -> Path:
    return tmp_path / "nobody was here.sqlite"
