"""Whatever a Conductor says: sync fails with an error of ours or goes on, and comes to its end.

`FUZZ_EXAMPLES=10000 pytest tests/sync/test_any_answer.py` tries many more than the suite does.
"""

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dbos_mcp.errors import DbosMcpError
from dbos_mcp.store import projector
from tests.sync.poison import APPLICATION, row, site_of
from tests.upstream import APP

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
LOOK_MS = 601_000
MOST_SECONDS = 300

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from(["", "w-1", "PENDING", "\ud800", "x\0", "2026-11-20T10:00:00Z", "9999-12-31"])
    | st.sampled_from([0, -1, 7, 2**31, 2**63, -(2**64), 10**30, 1.5, float("nan"), 1e308]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
ids = st.sampled_from(["w-1", "w-2", "..", "a/b", "\x00", "x" * 300])
workflows = st.builds(
    row, ids, st.integers(0, 400), st.sampled_from(["SUCCESS", "PENDING", "ERROR", "NEW", ""])
)
members = st.sampled_from([*row("w", 1), "queueName", "priority", "deadline", "forkedFrom"])
spoilt = st.builds(lambda row, name, value: {**row, name: value}, workflows, members, anything)
steps = st.fixed_dictionaries(
    {"stepId": st.integers(0, 3) | anything, "stepName": st.just("s") | anything}
)
executors = st.fixed_dictionaries(
    {
        "executorId": ids | anything,
        "status": anything,
        "createdAt": st.just(1),
        "updatedAt": anything,
    }
)
groups = st.fixed_dictionaries(
    {
        "group": st.fixed_dictionaries(
            {
                "status": st.sampled_from(["SUCCESS", "PENDING"]) | anything,
                "time_bucket": st.sampled_from(["0", "1790000000000", "x"]) | anything,
            }
        ),
        "count": st.integers() | anything,
    }
)
applications = st.lists(
    st.sampled_from([APPLICATION])
    | st.builds(lambda name: {**APPLICATION, "name": name}, ids | anything),
    max_size=3,
)


def answers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly a list of what there should be."""
    return st.lists(inner, max_size=5) | anything


class Conductor:
    """Gives the answers that it was made with, over and over."""

    def __init__(self, said: dict[str, list[Any]]) -> None:
        self._said = said
        self._asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        kind = next((name for name in self._said if path.endswith(name)), "/apps")
        self._asked += 1
        assert self._asked < 1_000, "it asks for ever"
        said = self._said[kind][self._asked % len(self._said[kind])]
        await Response(json.dumps(said), media_type="application/json")(scope, receive, send)


conductors = st.builds(
    Conductor,
    st.fixed_dictionaries(
        {
            name: st.lists(answers(each), min_size=1, max_size=4)
            for name, each in {
                "/search": workflows | spoilt,
                "/steps": steps,
                "/executors": executors,
                "/aggregates": groups,
            }.items()
        }
        | {
            "/apps": st.lists(
                st.just([APPLICATION]) | applications | anything, min_size=1, max_size=3
            )
        }
    ),
)


@example(
    Conductor(
        {
            "/apps": [[APPLICATION]],
            "/executors": [[]],
            "/search": [[row("w-1", 0), row("w-2", 0, "ERROR")]],  # also where one was asked for
            "/steps": [[]],
            "/aggregates": [[]],
        }
    ),
    1,
)
@settings(
    max_examples=EXAMPLES or 12,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(conductor=conductors, page_limit=st.sampled_from([1, 2, 1000]))
def test_sync_outlives_whatever_json_it_is_given(
    empty_cache: Path, conductor: Conductor, page_limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(empty_cache, Path(folder) / "cache.sqlite"))
        anyio.run(_live, conductor, path, page_limit)


async def _live(conductor: Conductor, path: Path, page_limit: int) -> None:
    async with site_of(conductor, path, page_limit) as site:
        with anyio.fail_after(MOST_SECONDS):
            for _ in range(3):
                with suppress(DbosMcpError):
                    await site.worker.run_once()
                site.clock.ahead_ms += LOOK_MS
            with suppress(DbosMcpError):
                await site.mirror.refresh_workflows(APP, ["w-1", "w-2", "w-3"])
        with site.cache.write() as connection:
            assert all(table.equal for table in projector.rebuild(connection))
