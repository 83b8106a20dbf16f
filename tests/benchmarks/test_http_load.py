"""The load of many clients, with a few for a moment."""

import anyio.to_thread
import pytest

from benchmarks.reliability.http_load import QUESTIONS, load
from tests.upstream import Site

pytestmark = pytest.mark.slow


async def test_every_client_gets_its_answers(site: Site) -> None:
    await site.sync()
    run = await anyio.to_thread.run_sync(load, site.cache.path, 4, 2.0)
    assert not run.seen.faults
    assert {"list_workflows", "/metrics"} <= {*run.seen.seconds}
    assert len(run.seen.every) > len(QUESTIONS)
    assert run.begin_bytes > 0
