"""Pure: (what we knew, what we see) → events. No clock, no network, no database."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dbos_mcp.conductor.models import Application, Executor, Step, Workflow
from dbos_mcp.domain import FAILED, IN_FLIGHT, WorkflowStatus
from dbos_mcp.settings import Payloads
from dbos_mcp.store.events import (
    ApplicationObserved,
    Event,
    ExecutorObserved,
    StepsDiscarded,
    StepsObserved,
    StepState,
    WorkflowChanged,
    WorkflowDeleted,
    WorkflowObserved,
    WorkflowState,
)

Row = TypeVar("Row", Workflow, Step)

MAX_PAYLOAD_CHARACTERS = 16_000
REMOVED = "REMOVED"
"""Our word for an application or executor that Conductor no longer lists."""

Texts = frozenset[str]
"""Some of a workflow's or step's payloads: `input`, `output`, `error`."""
NO_TEXTS: Texts = frozenset()
_INPUT: Texts = frozenset({"input"})
_ERROR: Texts = frozenset({"error"})
_OUTCOME: Texts = frozenset({"output", "error"})
_PAYLOADS = _INPUT | _OUTCOME

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_CUT = re.compile(r"… \[cut: [0-9]+ characters in all\]$")
_CUT_ADDRESS = re.compile(r"0x[0-9a-fA-F]*$")


@dataclass(frozen=True)
class KnownWorkflow:
    """The part of a workflow row that a comparison needs."""

    content_hash: bytes
    status: str
    updated_at: int
    deleted: bool
    loaded: Texts = NO_TEXTS
    """The payloads that were asked for, whether there were any or not."""
    texts: Mapping[str, str | None] = field(default_factory=dict)
    """The payloads themselves, where they are to be compared."""


def diff_applications(
    known: Mapping[str, ApplicationObserved],
    seen: Iterable[Application],
    spared: Collection[str] = (),
) -> list[Event]:
    """Applications that are no longer listed are observed as REMOVED, once; not the `spared`."""
    now = {
        application.name: ApplicationObserved(
            application_name=application.name,
            application_id=application.id,
            status=application.status,
            language=application.language,
            private_mode=application.private_mode,
            dbos_cloud=application.dbos_cloud,
            executor_timeout_secs=application.executor_timeout_secs,
            gc_rows_threshold=application.gc_rows_threshold,
            gc_time_threshold_ms=application.gc_time_threshold_ms,
            global_timeout_ms=application.global_timeout_ms,
        )
        for application in seen
    }
    return _changed_and_removed(known, now, spared)


def diff_executors(
    application_name: str,
    known: Mapping[str, ExecutorObserved],
    seen: Iterable[Executor],
    spared: Collection[str] = (),
) -> list[Event]:
    """Executors that are no longer listed are observed as REMOVED, once; not the `spared`."""
    now = {
        executor.executor_id: ExecutorObserved(
            application_name=application_name,
            occurred_at=executor.updated_at,
            executor_id=executor.executor_id,
            status=executor.status,
            application_version=executor.application_version or None,
            hostname=executor.hostname,
            host_id=executor.host_id,
            language=executor.language,
            dbos_version=executor.dbos_version,
            executor_metadata=(
                json.dumps(executor.executor_metadata, sort_keys=True, ensure_ascii=False)
                if executor.executor_metadata
                else None
            ),
            created_at=executor.created_at,
            updated_at=executor.updated_at,
        )
        for executor in seen
    }
    return _changed_and_removed(known, now, spared)


def _changed_and_removed(
    known: Mapping[str, ApplicationObserved] | Mapping[str, ExecutorObserved],
    now: Mapping[str, ApplicationObserved] | Mapping[str, ExecutorObserved],
    spared: Collection[str],
) -> list[Event]:
    changed = [event for key, event in now.items() if event != known.get(key)]
    removed = [
        event.model_copy(update={"status": REMOVED})
        for key, event in known.items()
        if key not in now and key not in spared and event.status != REMOVED
    ]
    return [*changed, *removed]


def kept_texts(policy: Payloads, status: str) -> Texts:
    """What the policy keeps of a workflow of this status."""
    if policy is Payloads.ALL:
        return _INPUT if status in IN_FLIGHT else _INPUT | _OUTCOME
    if policy is Payloads.NONE or status not in FAILED:
        return NO_TEXTS
    return _ERROR if policy is Payloads.ERRORS else _INPUT | _OUTCOME


def kept_step_texts(policy: Payloads, status: str) -> Texts:
    """What the policy keeps of the steps of a workflow of this status."""
    if policy is Payloads.NONE:
        return NO_TEXTS
    if policy is Payloads.ALL or (policy is Payloads.FAILED and status in FAILED):
        return _OUTCOME
    return _ERROR


def wanted_texts(
    application_name: str, known: KnownWorkflow | None, seen: Workflow, policy: Payloads
) -> Texts:
    """What the policy keeps of this workflow and a plain listing leaves out, as far as the cache
    has not got it, or has that of an earlier state only."""
    kept = kept_texts(policy, seen.status)
    if not kept or known is None or known.deleted:
        return kept
    if known.content_hash == _observed(application_name, seen).content_hash():
        return kept - known.loaded
    # Only a call that is debounced, while it is delayed, gets another input.
    has_input = "input" in known.loaded and known.status != WorkflowStatus.DELAYED
    return kept - _INPUT if has_input else kept


def diff_workflow(
    application_name: str,
    known: KnownWorkflow | None,
    seen: Workflow,
    *,
    loaded: Texts = NO_TEXTS,
) -> WorkflowState | None:
    """What a look at one workflow tells, for which the `loaded` payloads were asked for; None when
    it is as it was."""
    observed = _observed(application_name, seen, loaded)
    if known is None or known.deleted:
        return observed
    same_payloads = loaded <= known.loaded and all(
        without_noise(known.texts.get(name)) == without_noise(getattr(observed, name))
        for name in loaded
    )
    if observed.content_hash() == known.content_hash and same_payloads:
        return None
    return WorkflowChanged.model_validate(observed.model_dump())


def diff_missing(application_name: str, workflow_ids: Iterable[str]) -> list[Event]:
    return [
        WorkflowDeleted(application_name=application_name, workflow_id=workflow_id)
        for workflow_id in workflow_ids
    ]


def diff_steps(
    application_name: str,
    workflow_id: str,
    known: Sequence[StepState],
    seen: Iterable[Step],
    *,
    kept: Texts,
    spared: Collection[str] = (),
) -> list[Event]:
    """The whole new list when anything differs; steps that are gone are discarded first. Those of
    the `spared` numbers may be there although they do not show: they stay as they are.

    Texts that are not `kept` are not looked at: those of a step that we know stay as they are.
    """
    before = {step.step_id: step for step in known}
    shown = {step.step_id: _step(step, before.get(step.step_id), kept) for step in seen}
    stay = {key: step for key, step in before.items() if str(key) in spared}
    now = tuple(step for _, step in sorted((stay | shown).items()))
    if [_comparable(step) for step in now] == [_comparable(step) for step in known]:
        return []
    events: list[Event] = []
    gone = {step.step_id for step in known} - {step.step_id for step in now}
    if gone:
        events.append(
            StepsDiscarded(
                application_name=application_name,
                workflow_id=workflow_id,
                step_ids=tuple(sorted(gone)),
            )
        )
    # Not the ends: a sleep's is in the future while it lasts.
    started = [step.started_at for step in now if step.started_at is not None]
    events.append(
        StepsObserved(
            application_name=application_name,
            workflow_id=workflow_id,
            occurred_at=max(started, default=None),
            steps=now,
        )
    )
    return events


def without_noise(payload: str | None) -> str | None:
    """Display text with memory addresses masked: they differ at every look."""
    return payload and _ADDRESS.sub("0x…", payload)


def clipped(seen: Row, texts: Texts) -> Row:
    """With no more of its payloads than the cache keeps."""
    kept = {name: clip(getattr(seen, name)) for name in texts}
    return seen.model_copy(update=dict.fromkeys(_PAYLOADS & vars(seen).keys()) | kept)


def without(seen: Row, texts: Texts, reason: str) -> Row:
    """With a word in the place of payloads that could not be read."""
    return seen.model_copy(update=dict.fromkeys(texts, f"… [not read: {reason}]"))


def clip(payload: str | None) -> str | None:
    """A payload bounded to what the cache keeps, the cut marked."""
    if payload is None or len(payload) <= MAX_PAYLOAD_CHARACTERS or _is_clipped(payload):
        return payload
    # Half an address would no longer be known as noise.
    kept = _CUT_ADDRESS.sub("", payload[:MAX_PAYLOAD_CHARACTERS])
    return f"{kept}… [cut: {len(payload)} characters in all]"


def _is_clipped(payload: str) -> bool:
    return len(payload) < MAX_PAYLOAD_CHARACTERS + 100 and _CUT.search(payload) is not None


def _step(seen: Step, known: StepState | None, kept: Texts) -> StepState:
    bare = StepState.model_validate(seen.model_dump(exclude=set(_OUTCOME)))
    is_same = known is not None and known.model_copy(update=dict.fromkeys(_OUTCOME)) == bare

    def text(name: str) -> str | None:
        if name in kept:
            return clip(getattr(seen, name))
        return getattr(known, name) if is_same else None

    texts = {name: text(name) for name in _OUTCOME}
    return StepState.model_validate(bare.model_dump() | texts)


def _comparable(step: StepState) -> StepState:
    return step.model_copy(update={name: without_noise(getattr(step, name)) for name in _OUTCOME})


def _observed(application_name: str, seen: Workflow, loaded: Texts = NO_TEXTS) -> WorkflowObserved:
    texts: dict[str, object] = {"input": None, "output": None, "error": None}
    for name in loaded:
        texts |= {name: clip(getattr(seen, name)), WorkflowState.LOADED[name]: True}
    return WorkflowObserved.model_validate(
        {
            **vars(seen),
            **texts,
            "application_name": application_name,
            "occurred_at": seen.updated_at,
            "owning_application": (
                None if seen.application_name == application_name else seen.application_name
            ),
        }
    )
