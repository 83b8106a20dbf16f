"""Workflows whose every name, id and error means harm."""

from typing import Any

from dbos_mcp.domain import now_ms
from tests.upstream import Tables, pickled, workflow

SCRIPT = "<script>alert('ran')</script>"
IMAGE = "<img src=x onerror=alert('ran')>"
ATTRIBUTE = "\" autofocus onfocus=alert('ran') x='"
STYLE = "</style><svg onload=alert('ran')>"
MARKDOWN = "[click](https://evil.example) ![x](https://evil.example/x.png) https://evil.example"
CELLS = "a | b\n\n# Heading\n\n- item\n```\nfence\n```\n@everyone you@evil.example www.evil.example"
TURNED = "abc\u202egnp.exe\u2066\u200b"
TERMINAL = "\x1b[31mred\x1b]0;title\x07"
TEMPLATE = "{{ 7*7 }}{% raw %}"
HUGE = "long " * 40_000
TOKEN = "ghp_" + "a1B2c3D4e5" * 4
WORDS = " ".join([SCRIPT, IMAGE, ATTRIBUTE, STYLE, MARKDOWN, CELLS, TURNED, TERMINAL, TEMPLATE])
TOP, CHILD = f"top {SCRIPT}{TURNED}", f"child {IMAGE} | `{MARKDOWN}`"


def add_hostile(tables: Tables) -> None:
    """One that failed because its child did, and a few that went well."""
    created = now_ms() - 60_000
    everywhere: dict[str, Any] = {
        "name": WORDS,
        "class_name": STYLE,
        "queue_name": ATTRIBUTE,
        "executor_id": IMAGE,
        "application_version": TEMPLATE,
        "authenticated_user": CELLS,
        "started_at_epoch_ms": created + 100,
    }
    error = pickled(RuntimeError(f"{WORDS} token={TOKEN} {HUGE}"))
    tables.add(
        workflow(TOP, created, "ERROR", error=error, **everywhere),
        workflow(CHILD, created, "ERROR", error=error, parent_workflow_id=TOP, **everywhere),
        *(workflow(f"{WORDS} {n}", created, **everywhere) for n in range(4)),
    )
    times: dict[str, Any] = {"started_at": created + 200, "completed_at": created + 900}
    tables.add_step(TOP, 1, f"{IMAGE}{CELLS}", child=CHILD, **times)
    tables.add_step(TOP, 2, "DBOS.getResult", f"{WORDS} token={TOKEN} {HUGE}", child=CHILD, **times)
    tables.add_step(CHILD, 1, f"{SCRIPT}{MARKDOWN}", **times)
    tables.add_step(CHILD, 2, WORDS, f"{WORDS} token={TOKEN} {HUGE}", **times)
