"""The figures: what is counted, and that labels are names of ours and of applications alone."""

import re

from dbos_mcp.domain import Rights
from dbos_mcp.serving.app import build_app
from dbos_mcp.serving.place import Place
from dbos_mcp.serving.tokens import TokenFile
from tests.server.conftest import Place as Shop
from tests.serving.conftest import Answer, headers_of, message, running, send
from tests.upstream import APP


async def test_the_figures_tell_how_it_goes(place: Shop, tokens: TokenFile) -> None:
    full, _ = tokens.create("ci", Rights.FULL)
    app = build_app([place.settings], Place(), transport=place.wire)
    host = {"host": "localhost:8321"}
    authorized = {**host, "authorization": f"Bearer {full}"}

    async def call(tool: str, **arguments: object) -> Answer:
        headers = {**headers_of("tools/call", tool), **authorized}
        return await send(app, "POST", "/mcp", headers, message("tools/call", tool, **arguments))

    async with running(app):
        await call("list_applications")
        await call("cancel_workflow", application_name=APP, workflow_id="job-000")
        await call("get_workflow", application_name=APP, workflow_id="nobody")
        await call("a_tool_that_somebody_made_up")
        await send(app, "GET", "/metrics", host)
        await send(app, "GET", "/metrics", {"host": "evil.example"})
        answer = await send(app, "GET", "/metrics", authorized)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    figures = dict(
        line.rsplit(" ", 1)
        for line in answer.body.decode().splitlines()
        if not line.startswith("#")
    )

    def figure(name: str, **labels: str) -> float:
        given = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        return float(figures[f"dbos_mcp_{name}{{{given}}}"])

    assert figure("tool_calls_total", tool="list_applications", outcome="ok") == 1
    assert figure("tool_calls_total", tool="get_workflow", outcome="error") == 1
    assert figure("tool_calls_total", tool="other", outcome="error") == 1
    assert figure("tool_seconds_count", tool="cancel_workflow") == 1
    assert figure("requests_refused_total", reason="missing") == 1
    assert figure("requests_refused_total", reason="host") == 1
    assert figure("commands", profile="", command="cancel", outcome="done") == 1
    assert figure("offline", profile="", application=APP) == 0
    assert 0 <= figure("sync_age_seconds", profile="", application=APP) < 120
    assert figure("mirror_open", profile="") == 1
    assert figure("events", profile="") > 30
    assert figure("cache_bytes", profile="") > 0
    assert "process_resident_memory_bytes" in figures
    labels = set(re.findall(r'(\w+)="', answer.body.decode()))
    assert labels == {"tool", "outcome", "le", "reason", "profile", "application", "command"}
    assert b"made_up" not in answer.body
    assert b"job-000" not in answer.body
