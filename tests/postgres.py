"""A PostgreSQL server of the tests' own, where the machine has the programs for one."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from benchmarks import postgres
from benchmarks.postgres import NoPostgresError


@contextmanager
def running_postgres() -> Iterator[str]:
    """As `benchmarks.postgres`. Skips the test where there can be none."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres.running_postgres())
        except NoPostgresError as reason:
            pytest.skip(f"{reason}: nothing was tested on it")
        yield url
