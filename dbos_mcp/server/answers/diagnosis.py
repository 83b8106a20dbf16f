"""Why one workflow failed, or what it waits for."""

from collections.abc import Sequence
from functools import partial

from mcp_types import CallToolResult

from dbos_mcp.postmortem.diagnosis import Call, diagnose
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render
from dbos_mcp.server.apps import picture_of, pictured
from dbos_mcp.server.budget import fitting, within
from dbos_mcp.server.context import Asker
from dbos_mcp.server.freshness import line_of
from dbos_mcp.server.investigation import WHY_CHARACTERS, investigate
from dbos_mcp.server.workflow_rows import DATA_NOTE

DIAGNOSIS_BYTES = 4_096
VERDICT_BYTES = 1_000
LINE_BYTES = 400
ID_BYTES = 200


async def diagnose_workflow(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    workflow_id: str,
    shows_apps: bool,
    *,
    max_age_seconds: float | None,
) -> str | CallToolResult:
    investigation = await investigate(
        asker, runtime, application_name, workflow_id, max_age_seconds
    )
    case, freshness = investigation.case, line_of(runtime, investigation.freshness)
    found = diagnose(case, _tools_there(asker, runtime))
    calls = [
        *(_call(asker.profile, application_name, call) for call in found.next),
        *(_out_of_reach(asker, runtime, call) for call in found.out_of_reach[:1]),
    ]
    workflow = case.workflow
    evidence = [*found.chain, *found.evidence]

    called = within(workflow.workflow_name or "", ID_BYTES)

    def answer_of(shown: int, calls: Sequence[str]) -> str:
        lines = [f"- {within(line, LINE_BYTES)}" for line in evidence[:shown]]
        return render.answer(
            f"{within(workflow_id, ID_BYTES)}: {render.plain(workflow.status)},"
            f" {called} of {render.plain(application_name)}",
            f"verdict: {within(found.verdict, VERDICT_BYTES)}",
            "\n".join(["evidence:", *lines]) if lines else None,
            f"not known: {within('; '.join(found.not_known), LINE_BYTES)}."
            if found.not_known
            else None,
            "\n".join(["next:", *calls]) if calls else None,
            DATA_NOTE,
            freshness,
        )

    # Ids are long where they are hostile; then there are fewer calls.
    for kept in range(len(calls), -1, -1):
        of_these = partial(answer_of, calls=calls[:kept])
        answer, _ = fitting(len(evidence), DIAGNOSIS_BYTES, of_these)
        if len(answer.encode()) <= DIAGNOSIS_BYTES:
            break
    if not shows_apps:
        return answer
    picture = await runtime.read(
        partial(picture_of, application_name=application_name, workflow_id=workflow_id)
    )
    return pictured(answer, picture)


def _tools_there(asker: Asker, runtime: Runtime) -> frozenset[str]:
    """Those that can be called, and do something."""
    from dbos_mcp.server.tools import tools_of  # which lists this one

    settings = runtime.settings
    silent = settings.read_only or runtime.live is None or not asker.may_command
    return frozenset(tool.name for tool in tools_of(settings.toolsets, read_only=silent))


def _call(profile: str | None, application_name: str, call: Call) -> str:
    why = render.plain(call.why, limit=WHY_CHARACTERS)
    return f"- {call.written(application_name, profile)}: {why}"


def _out_of_reach(asker: Asker, runtime: Runtime, call: Call) -> str:
    """Nothing that could be taken for a call."""
    if runtime.settings.read_only:
        why = "this server is read-only"
    elif runtime.live is None:
        why = "this server is offline"
    elif not asker.may_command:
        why = "this token may only read"
    else:
        why = "DBOS_MCP_TOOLSETS=all adds that tool; or in Conductor's console"
    told = render.plain(call.why, limit=WHY_CHARACTERS)
    return f"- not from here: {call.described}: {told}; {why}"
