"""The demo, as the README says it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate.session import README, shown_in
from tests.docs.pages import not_said

pytestmark = pytest.mark.e2e


def without_the_run(session: str) -> str:
    """Without sizes and times of the machine's, and which of the failures is the newest."""
    return re.sub(r"(\)) \d+ bytes, \d+ ms$| order-\d+-5-4$", r"\1", session, flags=re.MULTILINE)


def test_the_demo_shows_what_it_promises_and_leaves_a_cache_behind(tmp_path: Path) -> None:
    keep = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "dbos_mcp", "demo", "--keep", str(keep)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=True,
    )
    said = done.stdout
    assert "shop | AVAILABLE | 101 | 5 | 12" in said
    assert said.count("12 | book_courier | quote_delivery | 'BT'") == 2
    cause = "2 levels down: book_courier order-1005-5-4 in step 2 quote_delivery"
    assert said.count(cause) == 2
    assert "input.city = Belfast: 4 of 4 failed, 0 of 20 others" in said
    assert 'fork_workflow(application_name="shop", workflow_id="order-1005", start_step=5)' in said
    assert "reconcile-1 | done | PENDING | CANCELLED" in said
    # The shop runs: it may have taken it from its queue before it was looked at again.
    assert re.search(r"reconcile-1 \| done \| CANCELLED \| (ENQUEUED|PENDING)", said)
    assert "order-1005 | done | ERROR | ERROR | " in said
    killed = said.split("are killed")[1]
    assert killed.count("offline since") == 5
    assert cause in killed
    assert re.search(r"quote_delivery \| \d+ \| \d+ \| \d+", killed)  # by SQL

    shown = shown_in(README.read_text()).split("\n", maxsplit=1)[1]
    assert not_said(without_the_run(shown), without_the_run(said)) == []

    last = said.splitlines()[-1]
    assert last.startswith("claude mcp add dbos-demo -- ")
    command = shlex.split(last.removeprefix("claude mcp add dbos-demo -- "))
    assert command[-2:] == ["--cache", str(keep / "cache.sqlite")]

    page = shlex.split(said.splitlines()[-2])
    subprocess.run(page, check=True, capture_output=True)
    assert "quote_delivery" in (keep / "report.html").read_text()

    rebuilt = subprocess.run(
        [sys.executable, "-m", "dbos_mcp", *command[-2:], "rebuild"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert rebuilt.stdout.count("equal to the live ones") == 6

    again = subprocess.run(
        [sys.executable, "-m", "dbos_mcp", "demo", "--keep", str(keep)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2
    assert "is there already" in again.stderr
