"""One workflow and its steps: now, or as the mirror knew it at some instant."""

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection

from dbos_mcp.domain import now_ms
from dbos_mcp.errors import NotFoundError, UsageError
from dbos_mcp.queries import history as history_queries
from dbos_mcp.queries import steps as step_queries
from dbos_mcp.queries import workflow as queries
from dbos_mcp.queries.coverage import LEFT_THE_LOG, Gap, gap_of, gap_of_history
from dbos_mcp.queries.filters import WorkflowFilter
from dbos_mcp.queries.freshness import Freshness, Looked
from dbos_mcp.queries.history import AsOf
from dbos_mcp.queries.steps import StepItem, StepList, StepSummary
from dbos_mcp.queries.workflow import Ancestors, Relatives, WorkflowDetail
from dbos_mcp.queries.workflows import WorkflowItem
from dbos_mcp.runtime import Runtime
from dbos_mcp.server import render
from dbos_mcp.server.answers.history import HISTORY_CHARACTERS, HISTORY_COLUMNS
from dbos_mcp.server.budget import fitting, part_of, table_within
from dbos_mcp.server.context import Asker
from dbos_mcp.server.freshness import answer_from, found_by, gap_line, line_of, now_of, resting_on
from dbos_mcp.server.lookup import NOT_TO_BE_READ, look_up, read_again
from dbos_mcp.server.render import WHY_CHARACTERS, Column
from dbos_mcp.server.tools import arguments
from dbos_mcp.server.tools.arguments import Texts
from dbos_mcp.server.workflow_rows import ANSWER_BYTES, CONCISE_ERROR_CHARACTERS, DATA_NOTE
from dbos_mcp.sync.diff import MAX_PAYLOAD_CHARACTERS

SECTION_BYTES = 3_000
FEW = 5
"""Relatives that are shown without being asked for."""
NAMED_ANCESTORS = 8
ERROR_CHARACTERS = 2_000
DETAIL_CHARACTERS = 300
STEP_CHARACTERS = 300
INCLUDED = ("steps", "history", "children", "payload")

_RELATIVES: list[Column[WorkflowItem]] = [
    ("workflow_id", lambda item: item.workflow_id),
    ("status", lambda item: item.status),
    ("workflow_name", lambda item: item.workflow_name),
    ("created_at", lambda item: render.time(item.created_at)),
    ("duration", lambda item: render.duration(item.duration_ms)),
    ("error", lambda item: item.error and render.plain(item.error, limit=CONCISE_ERROR_CHARACTERS)),
]
_STEPS: list[Column[StepItem]] = [
    ("step_id", lambda step: str(step.step_id)),
    ("step_name", lambda step: step.step_name),
    ("started_at", lambda step: render.time(step.started_at)),
    ("duration", lambda step: render.duration(step.duration_ms)),
    ("child_workflow_id", lambda step: step.child_workflow_id),
    ("error", lambda step: step.error),
]


async def get_workflow(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    workflow_id: str,
    *,
    include: Texts = None,
    as_of: str | None = None,
    payload_offset: int = 0,
    max_age_seconds: float | None = None,
) -> str:
    wanted = arguments.choices("include", include, INCLUDED)
    instant = arguments.time("as_of", as_of, now=await now_of(runtime, application_name))
    if instant is not None and wanted & {"children", "payload"}:
        raise UsageError(
            "The log tells the row, the steps and the history of an instant, nothing else.",
            hint="Leave children and payload out, or as_of.",
        )
    looked = await look_up(asker, runtime, application_name, workflow_id, max_age_seconds)
    if instant is not None:
        return await _as_of(runtime, application_name, workflow_id, instant, wanted, looked)
    steps = unread = None
    if "steps" in wanted:
        steps, unread, _ = await _fresh_steps(
            asker, runtime, application_name, workflow_id, looked, max_age_seconds
        )
    elif runtime.live is not None:
        await runtime.live.mirror.want_steps(application_name, workflow_id)
    payload = (
        await _payload(runtime, application_name, workflow_id, payload_offset)
        if "payload" in wanted
        else None
    )

    def query(connection: Connection) -> tuple[WorkflowDetail, Gap | None]:
        detail = queries.get_workflow(connection, application_name, workflow_id)
        relatives = WorkflowFilter(
            application_name=application_name,
            start_time=detail.workflow.created_at,
            deleted_upstream=False,
        )
        return detail, gap_of(connection, relatives)

    (detail, gap), freshness = await answer_from(runtime, query, application_name, looked=looked)
    history = (
        await _history(runtime, application_name, workflow_id) if "history" in wanted else None
    )
    item = detail.workflow
    most = queries.RELATIVES if "children" in wanted else FEW
    return render.answer(
        _headline(item, application_name),
        _fields(item, detail),
        payload,
        _ancestors(detail.ancestors),
        _relatives("children", detail.children, most),
        _relatives("forks", detail.forks, most),
        _summary(detail.steps) if steps is None else _steps(steps.items, steps.read_at),
        history or f"history: {detail.history_total} entries; get_workflow_history shows them",
        DATA_NOTE,
        unread,
        gap_line(gap),
        freshness,
    )


async def list_steps(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    workflow_id: str,
    *,
    failed_only: bool,
    step_id: int | None,
    include_output: bool,
    output_offset: int,
    limit: int,
    after_step_id: int | None,
    max_age_seconds: float | None,
) -> str:
    if include_output and step_id is None:
        raise UsageError("include_output needs step_id: the output of one step is shown.")
    looked = await look_up(asker, runtime, application_name, workflow_id, max_age_seconds)
    steps, unread, state = await _fresh_steps(
        asker, runtime, application_name, workflow_id, looked, max_age_seconds
    )
    output = None
    if step_id is not None and include_output:
        step = next((step for step in steps.items if step.step_id == step_id), None)
        if step is not None:
            output = await _output(runtime, application_name, workflow_id, step, output_offset)
    asked = [
        step
        for step in steps.items
        if (step_id is None or step.step_id == step_id)
        and (after_step_id is None or step.step_id > after_step_id)
        and (step.error is not None or not failed_only)
    ]
    if step_id is not None and not asked and steps.items:
        unknown = NotFoundError(
            f"{workflow_id} has no step {step_id} among the {len(steps.items)} that are known.",
            hint="list_steps without step_id shows their ids.",
        )
        raise resting_on(unknown, runtime, state)
    failed = sum(step.error is not None for step in steps.items)

    def answer_of(shown: int) -> str:
        more = len(asked) - shown
        return render.answer(
            f"{shown} of {len(steps.items)} steps of {render.plain(workflow_id, limit=300)}"
            f" ({render.plain(steps.workflow_status)}), {failed} failed",
            render.table(_STEPS, asked[:shown], limit=STEP_CHARACTERS)
            if shown
            else "None has been read of it yet."
            if steps.read_at is None
            else "None.",
            output,
            f"{more} more: pass after_step_id={asked[shown - 1].step_id}." if more else None,
            DATA_NOTE if shown else None,
            unread,
            f"Steps read at {render.time(steps.read_at)}." if steps.read_at is not None else None,
            line_of(runtime, state),
        )

    answer, _ = fitting(min(limit, len(asked)), ANSWER_BYTES, answer_of)
    return answer


# What is read


async def _fresh_steps(
    asker: Asker,
    runtime: Runtime,
    application_name: str,
    workflow_id: str,
    looked: Looked,
    max_age_seconds: float | None,
) -> tuple[StepList, str | None, Freshness]:
    """The steps, read live if they may have changed, or are older than they may be, and nothing is
    in the way; why they could not be; and how fresh the mirror is."""
    find = partial(
        found_by,
        runtime,
        partial(
            step_queries.list_steps, application_name=application_name, workflow_id=workflow_id
        ),
        application_name,
        looked=looked,
    )
    steps, state = await find()
    now = now_ms()
    too_old = (
        max_age_seconds is not None
        and not steps.deleted
        and not now - max_age_seconds * 1000 <= (steps.read_at or 0) <= now
    )
    if not (steps.may_have_changed or too_old) or looked.why_not or runtime.live is None:
        return steps, None, state
    mirror = runtime.live.mirror
    read = partial(mirror.refresh_steps, application_name, workflow_id)
    why: object = None
    if max_age_seconds is not None:
        why = await read_again(
            asker, (application_name, workflow_id, "steps"), max_age_seconds, read
        )
    else:
        try:
            await read()
        except NOT_TO_BE_READ as error:
            why = error
    unread = None
    if why is not None:
        unread = f"Not read afresh: {render.plain(why, limit=WHY_CHARACTERS)}"
        await mirror.want_steps(application_name, workflow_id)
    steps, state = await find()
    return steps, unread, state


async def _payload(runtime: Runtime, application_name: str, workflow_id: str, offset: int) -> str:
    """Input and output as Conductor has them, else what the mirror has kept of them."""
    failure: Exception | None = None
    if runtime.live is not None:
        try:
            live = await runtime.live.client.get_workflow(application_name, workflow_id)
        except NOT_TO_BE_READ as error:
            failure = error
        else:
            if live.input is None and live.output is None:
                return "payload: Conductor sent none (private mode withholds it)"
            return _texts(("input", live.input), ("output", live.output), offset=offset)
    kept = await runtime.read(
        partial(queries.kept_payload, application_name=application_name, workflow_id=workflow_id)
    )
    why = render.plain(failure or "the server is offline", limit=WHY_CHARACTERS)
    if kept.input is None and kept.output is None:
        return f"payload: none was kept, and not to be had live: {why}"
    texts = _texts(("input", kept.input), ("output", kept.output), offset=offset)
    return f"{texts}\npayload: as the mirror kept it; not to be had live: {why}"


async def _output(
    runtime: Runtime, application_name: str, workflow_id: str, step: StepItem, offset: int
) -> str:
    """As the mirror kept it, if it has all of it; else as Conductor has it."""
    kept = step.output if step.error is None else step.error
    name = "output" if step.error is None else "error"
    if kept is not None and len(kept) <= MAX_PAYLOAD_CHARACTERS:
        return _texts((name, kept), offset=offset)
    why: object = "the server is offline"
    if runtime.live is not None:
        try:
            seen = await runtime.live.client.list_steps(application_name, workflow_id)
        except NOT_TO_BE_READ as error:
            why = error
        else:
            live = next((one for one in seen if one.step_id == step.step_id), None)
            text = None if live is None else live.output if step.error is None else live.error
            if text is not None:
                return _texts((name, text), offset=offset)
            why = "Conductor sent none"
    told = render.plain(why, limit=WHY_CHARACTERS)
    if kept is not None:
        return f"{_texts((name, kept), offset=offset)}\n{name}: as the mirror kept it: {told}"
    return f"{name}: none was kept, and: {told}"


async def _history(
    runtime: Runtime, application_name: str, workflow_id: str, *, first: int | None = None
) -> str:
    """The newest entries that fit, oldest first; of the `first` ones only, if that is given."""
    entries = (
        await runtime.read(
            partial(
                history_queries.get_history,
                application_name=application_name,
                workflow_id=workflow_id,
            )
        )
    )[:first]
    _, shown = table_within(SECTION_BYTES, HISTORY_COLUMNS, entries[::-1], limit=HISTORY_CHARACTERS)
    rest = "" if shown == len(entries) else "; get_workflow_history shows the rest"
    return f"history ({shown} of {len(entries)}, oldest first{rest}):\n" + render.table(
        HISTORY_COLUMNS, entries[len(entries) - shown :], limit=HISTORY_CHARACTERS
    )


async def _as_of(
    runtime: Runtime,
    application_name: str,
    workflow_id: str,
    instant: int,
    wanted: frozenset[str],
    looked: Looked,
) -> str:
    def query(connection: Connection) -> tuple[AsOf, Gap | None]:
        entries = history_queries.get_history(connection, application_name, workflow_id)
        return (
            history_queries.get_as_of(connection, application_name, workflow_id, instant),
            gap_of_history(connection, application_name, workflow_id, entries),
        )

    (then, gap), freshness = await answer_from(runtime, query, application_name, looked=looked)
    pruned = gap if gap is not None and gap.missing in LEFT_THE_LOG else None
    item, when = then.workflow, render.time(instant)
    if item is None:
        return render.answer(
            f"At {when} the mirror had not seen {render.plain(workflow_id, limit=300)} yet: it"
            f" first saw it at {render.time(then.first_seen_at)}."
            f" Upstream created it at {render.time(then.created_at)}.",
            gap_line(pruned),
            freshness,
        )
    history = None
    if "history" in wanted:
        history = await _history(runtime, application_name, workflow_id, first=then.entries)
    failed = sum(step.error is not None for step in then.steps)
    return render.answer(
        _headline(item, application_name) + f", as the mirror knew it at {when}",
        _fields(item),
        _steps(then.steps, then.steps_read_at)
        if "steps" in wanted
        else f"steps: {len(then.steps)} mirrored by then, {failed} failed",
        history or f"history: {then.entries} of its {then.total} entries were there by then",
        _what_came(then, instant),
        DATA_NOTE,
        gap_line(pruned),
        freshness,
    )


# How it is shown


def _headline(item: WorkflowItem, application_name: str) -> str:
    return (
        f"{render.plain(item.workflow_id, limit=300)}: {render.plain(item.status)},"
        f" {render.plain(item.workflow_name)} of {render.plain(application_name)}"
    )


def _what_came(then: AsOf, instant: int) -> str:
    known, seen = then.workflow, then.next
    assert known is not None
    if seen is None:
        return "No other state has been seen since. Upstream may have been ahead of the mirror."
    state = render.plain(seen.what)
    at = render.time(seen.recorded_at)
    changed_at = seen.occurred_at
    if changed_at is None or changed_at == known.updated_at:
        return f"Seen next, at {at}: {state}; upstream may have been there before."
    if changed_at <= instant:
        return f"Upstream was ahead: {state} since {render.time(changed_at)}, seen at {at}."
    return f"Seen next, at {at}: {state}, upstream since {render.time(changed_at)}."


def _fields(item: WorkflowItem, detail: WorkflowDetail | None = None) -> str:
    source = detail and detail.source
    forked_from = item.forked_from and render.plain(item.forked_from, limit=DETAIL_CHARACTERS)
    pairs: list[tuple[str, object]] = [
        ("error", item.error and render.plain(item.error, limit=ERROR_CHARACTERS)),
        ("deleted upstream, noticed at", render.time(item.deleted_at)),
        ("class_name", item.class_name),
        ("config_name", item.config_name),
        ("created_at", render.time(item.created_at)),
        ("dequeued_at", render.time(item.dequeued_at)),
        ("completed_at", render.time(item.completed_at)),
        ("updated_at", render.time(item.updated_at)),
        ("duration", render.duration(item.duration_ms)),
        ("delay_until", render.time(item.delay_until)),
        ("deadline", render.time(item.deadline)),
        ("timeout_ms", item.timeout_ms),
        ("queue_name", item.queue_name),
        ("queue_partition_key", item.queue_partition_key),
        ("priority", item.priority or None),
        ("deduplication_id", item.deduplication_id),
        ("application_version", item.application_version),
        ("executor_id", item.executor_id),
        ("parent_workflow_id", item.parent_workflow_id),
        ("forked_from", f"{forked_from} ({source.status})" if source else forked_from),
        ("was_forked_from", "yes" if item.was_forked_from else None),
        ("schedule_name", item.schedule_name),
        ("authenticated_user", item.authenticated_user),
        ("assumed_role", item.assumed_role),
        ("authenticated_roles", item.authenticated_roles),
        ("attributes", item.attributes),
        ("owning application", item.owning_application),
    ]
    error, *others = pairs
    return render.answer(
        render.fields([error], limit=6 * ERROR_CHARACTERS),
        render.fields(others, limit=DETAIL_CHARACTERS),
    )


def _ancestors(ancestors: Ancestors) -> str | None:
    names = [
        f"{render.plain(item.workflow_id)} ({render.plain(item.status)},"
        f" {render.plain(item.workflow_name)})"
        for item in ancestors.items
    ]
    if len(names) > NAMED_ANCESTORS:
        left_out = len(names) - NAMED_ANCESTORS
        names = [names[0], f"… {left_out} more …", *names[-NAMED_ANCESTORS + 1 :]]
    if ancestors.ends_with is not None:
        names.insert(0, f"[{render.plain(ancestors.ends_with, limit=DETAIL_CHARACTERS)}]")
    return f"parents, root first: {' > '.join(names)}" if names else None


def _relatives(name: str, relatives: Relatives, most: int) -> str | None:
    if not relatives.total:
        return None
    rows, shown = table_within(SECTION_BYTES, _RELATIVES, relatives.items[:most])
    return f"{name} ({shown} of {relatives.total}):\n{rows}"


def _summary(steps: StepSummary) -> str:
    if steps.read_at is None:
        return "steps: not read yet; list_steps reads them"
    slowest = ""
    if steps.slowest is not None:
        name = render.plain(steps.slowest.step_name)
        took = render.duration(steps.slowest.duration_ms)
        slowest = f", slowest {steps.slowest.step_id} {name} {took}"
    line = f"steps: {steps.count} mirrored, {steps.failed} failed{slowest}; list_steps shows them"
    if not steps.failures:
        return line
    shown = f"{len(steps.failures)} of {steps.failed}"
    return f"{line}\nfailed steps ({shown}):\n" + render.table(_STEPS, steps.failures)


def _steps(steps: Sequence[StepItem], read_at: int | None) -> str:
    if not steps:
        return "steps: none" if read_at is not None else "steps: not read yet"
    rows, shown = table_within(SECTION_BYTES, _STEPS, steps)
    failed = sum(step.error is not None for step in steps)
    more = len(steps) - shown
    rest = (
        f"\n{more} more: list_steps with after_step_id={steps[shown - 1].step_id}" if more else ""
    )
    return f"steps ({shown} of {len(steps)}, {failed} failed):\n{rows}{rest}"


def _texts(*texts: tuple[str, str | None], offset: int) -> str:
    """Of each, the part from a character on, and how to get the rest."""
    lines = []
    argument = "payload_offset" if len(texts) > 1 else "output_offset"
    for name, text in texts:
        if text is None:
            continue
        if offset >= len(text) > 0:
            lines.append(f"{name}: no more than {len(text)} characters")
            continue
        part, end = part_of(text, offset, SECTION_BYTES)
        which = f" (characters {offset} to {end} of {len(text)})" if len(part) < len(text) else ""
        rest = f"\n{name}: more with {argument}={end}" if end < len(text) else ""
        lines.append(f"{name}{which}: {part}{rest}")
    return "\n".join(lines)
