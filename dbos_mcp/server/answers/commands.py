"""Cancel, resume, fork: sent straight to Conductor, and left in the log."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from mcp_types import InputRequiredResult

from dbos_mcp.conductor.models import ForkRequest
from dbos_mcp.errors import UsageError
from dbos_mcp.server import audit, render
from dbos_mcp.server.budget import fitting
from dbos_mcp.server.consent import Subject, consent
from dbos_mcp.server.context import Caller, commands_for, principal_of, runtime_for, session_of
from dbos_mcp.server.freshness import answer_from, read_live
from dbos_mcp.server.tools import arguments
from dbos_mcp.server.tools.arguments import WorkflowIds
from dbos_mcp.store.events import CommandName
from dbos_mcp.sync.commands import CommandResult, Commands, Group, Outcome, Preview, Told
from dbos_mcp.sync.known import MOST_DESCENDANTS

MOST_AT_ONCE = 500
UNASKED = 20
"""So many are commanded without a preview, their children included where they are meant, but for
what cannot be taken back."""
ALWAYS_ASKED: frozenset[CommandName] = frozenset({"delete"})
ANSWER_BYTES = 6_000
PREVIEW_GROUPS = 20
FIRST_IDS = 3
UNKNOWN = (
    "An outcome is unknown: the command was sent, no answer came, it may have run. Do not send it"
    " again: status_now is what Conductor showed afterwards, and get_workflow shows it later (a"
    " fork's new id, or list_workflows with forked_from, whether there is one)."
)
WORST_FIRST: tuple[Outcome, ...] = ("unknown", "failed", "not sent", "done")

Send = Callable[[Commands, Sequence[str], Told], Awaitable[list[CommandResult]]]


async def cancel_workflow(
    ctx: Caller,
    application_name: str,
    workflow_id: WorkflowIds,
    *,
    cancel_children: bool,
    confirm: str | None,
) -> str | InputRequiredResult:
    return await carry_out(
        ctx,
        "cancel",
        lambda commands, ids, told: commands.cancel(
            application_name, ids, cancel_children=cancel_children, told=told
        ),
        application_name,
        workflow_id,
        {"cancel_children": cancel_children},
        confirm,
    )


async def resume_workflow(
    ctx: Caller,
    application_name: str,
    workflow_id: WorkflowIds,
    *,
    queue_name: str | None,
    confirm: str | None,
) -> str | InputRequiredResult:
    return await carry_out(
        ctx,
        "resume",
        lambda commands, ids, told: commands.resume(
            application_name, ids, queue_name=queue_name, told=told
        ),
        application_name,
        workflow_id,
        {"queue_name": queue_name},
        confirm,
    )


async def fork_workflow(
    ctx: Caller,
    application_name: str,
    workflow_id: WorkflowIds,
    *,
    start_step: int,
    application_version: str | None,
    new_workflow_id: str | None,
    queue_name: str | None,
    queue_partition_key: str | None,
    confirm: str | None,
) -> str | InputRequiredResult:
    if new_workflow_id is not None and len(_ids(workflow_id)) > 1:
        raise UsageError("new_workflow_id names one workflow: leave it out for several.")
    request = ForkRequest(
        start_step=start_step,
        new_workflow_id=new_workflow_id,
        application_version=application_version,
        queue_name=queue_name,
        queue_partition_key=queue_partition_key,
    )
    return await carry_out(
        ctx,
        "fork",
        lambda commands, ids, told: commands.fork(application_name, ids, request, told=told),
        application_name,
        workflow_id,
        request.model_dump(exclude_none=True),
        confirm,
    )


async def carry_out(
    ctx: Caller,
    command: CommandName,
    send: Send,
    application_name: str,
    workflow_id: str | list[str],
    options: Mapping[str, object],
    confirm: str | None,
) -> str | InputRequiredResult:
    """Send a command to each workflow, once there is consent where it needs one."""
    ids = _ids(workflow_id)
    session = await session_of(ctx)
    runtime = await runtime_for(ctx, application_name)
    commands = commands_for(ctx, runtime)
    given = {name: value for name, value in options.items() if value not in (None, False)}
    with_children = bool(given.keys() & {"cancel_children", "delete_children"})
    touched = len(ids)
    if with_children:
        touched += len(await commands.descendants(application_name, ids))
    # Who was asked has answered, whatever the mirror knows by now.
    if touched > UNASKED or command in ALWAYS_ASKED or ctx.input_responses:
        subject = Subject(runtime.organization, application_name, command, given, ids)

        async def preview() -> tuple[str, bool]:
            seen = await commands.preview(
                application_name,
                command,
                ids,
                with_children=with_children,
            )
            return _preview(seen, subject), seen.to_send > 0

        answer = await consent(
            ctx, session.confirmations(principal_of(ctx)), subject, confirm, preview
        )
        if answer is not None:
            return answer

    async def told(done: int, total: int) -> None:
        await ctx.report_progress(done, total, f"{command}: {done} of {total}")

    results = await send(commands, ids, told)
    counts = Counter(result.outcome for result in results)
    audit.note(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    _, freshness = await answer_from(runtime, lambda _connection: None, application_name)
    return _answer(command, results, freshness)


def _ids(workflow_id: str | list[str]) -> tuple[str, ...]:
    ids = tuple(dict.fromkeys(arguments.texts(workflow_id)))
    if not ids:
        raise UsageError(
            "No workflow id was given.", hint="An empty list would mean every workflow upstream."
        )
    if len(ids) > MOST_AT_ONCE:
        raise UsageError(
            f"{len(ids)} workflows at once are too many to undo.",
            hint=f"Pass at most {MOST_AT_ONCE} ids at a time.",
        )
    return ids


def _preview(preview: Preview, subject: Subject) -> str:
    """What would happen, for whoever is to agree to it."""
    groups = preview.groups[:PREVIEW_GROUPS]
    rest = sum(len(group.workflow_ids) for group in preview.groups[PREVIEW_GROUPS:])
    options = ", ".join(f"{name}: {value}" for name, value in subject.arguments.items())
    return render.answer(
        f"{subject.command}: would act on {preview.to_send} of {len(subject.workflow_ids)}"
        f" workflows of {render.plain(subject.application_name)}"
        + (f" ({render.plain(options, limit=300)})" if options else ""),
        render.table(
            [
                ("workflows", lambda group: str(len(group.workflow_ids))),
                ("status", lambda group: group.status or "not found"),
                ("workflow_name", lambda group: group.workflow_name),
                ("effect", lambda group: group.effect or "none: nothing is sent"),
                ("first_ids", _first_ids),
            ],
            groups,
            limit=160,
        ),
        f"And {rest} more in smaller groups." if rest else None,
        f"And their child workflows: {preview.descendants}"
        f"{' or more' if preview.descendants == MOST_DESCENDANTS else ''} are known here."
        if preview.descendants
        else None,
        read_live(),
    )


def _first_ids(group: Group) -> str:
    more = ", …" if len(group.workflow_ids) > FIRST_IDS else ""
    return ", ".join(group.workflow_ids[:FIRST_IDS]) + more


def _answer(command: CommandName, results: Sequence[CommandResult], freshness: str) -> str:
    """Per id what came of it, failures first; raises the error of a single command that failed."""
    if len(results) == 1 and results[0].error is not None and results[0].outcome != "unknown":
        raise results[0].error
    counts = Counter(result.outcome for result in results)
    others = "".join(
        f", {counts[outcome]} {outcome}" for outcome in WORST_FIRST[:-1] if counts[outcome]
    )
    ordered = sorted(results, key=lambda result: WORST_FIRST.index(result.outcome))
    rows, shown = fitting(len(ordered), ANSWER_BYTES, partial(_rows, ordered))
    left = Counter(result.outcome for result in ordered[shown:])
    return render.answer(
        f"{command}: {counts['done']} of {len(results)} done{others}",
        rows,
        "Not shown: " + ", ".join(f"{count} {outcome}" for outcome, count in left.items()) + "."
        if left
        else None,
        UNKNOWN if counts["unknown"] else None,
        "The mirror has read them again: get_workflow shows the new state."
        if any(result.outcome != "not sent" and result.status_after for result in results)
        else None,
        freshness,
    )


def _rows(results: Sequence[CommandResult], count: int) -> str:
    """The first so many; an error is told in full once."""
    told: set[int] = set()

    def detail(result: CommandResult) -> object:
        if result.error is None:
            return None
        again = id(result.error) in told
        told.add(id(result.error))
        return "as above" if again else result.error

    return render.table(
        [
            ("workflow_id", lambda result: result.workflow_id),
            ("outcome", lambda result: result.outcome),
            ("status_before", lambda result: result.status_before),
            ("status_now", lambda result: result.status_after),
            ("new_workflow_id", lambda result: result.new_workflow_id),
            ("detail", detail),
        ],
        results[:count],
        limit=300,
    )
