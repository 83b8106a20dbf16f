"""Pure: (what we knew, what we see) → events. No clock, no network, no database."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dbos_mcp.conductor.models import Application, Executor, Step, Workflow
from dbos_mcp.domain import FAILED
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
)

MAX_PAYLOAD_CHARACTERS = 16_000
REMOVED = "REMOVED"
"""Our word for an application or executor that Conductor no longer lists."""

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
_CUT_ADDRESS = re.compile(r"0x[0-9a-fA-F]*$")


@dataclass(frozen=True)
class KnownWorkflow:
    """The part of a workflow row that a comparison needs."""

    content_hash: bytes
    updated_at: int
    deleted: bool
    payloads_loaded: bool
    error: str | None


def diff_applications(
    known: Mapping[str, ApplicationObserved], seen: Iterable[Application]
) -> list[Event]:
    """Applications that are no longer listed are observed as REMOVED, once."""
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
    return _changed_and_removed(known, now)


def diff_executors(
    application_name: str,
    known: Mapping[str, ExecutorObserved],
    seen: Iterable[Executor],
) -> list[Event]:
    """Executors that are no longer listed are observed as REMOVED, once."""
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
    return _changed_and_removed(known, now)


def _changed_and_removed(
    known: Mapping[str, ApplicationObserved] | Mapping[str, ExecutorObserved],
    now: Mapping[str, ApplicationObserved] | Mapping[str, ExecutorObserved],
) -> list[Event]:
    changed = [event for key, event in now.items() if event != known.get(key)]
    removed = [
        event.model_copy(update={"status": REMOVED})
        for key, event in known.items()
        if key not in now and event.status != REMOVED
    ]
    return [*changed, *removed]


def wants_payloads(
    application_name: str, known: KnownWorkflow | None, seen: Workflow, policy: Payloads
) -> bool:
    """Whether the policy keeps something of this workflow that a plain listing leaves out, and
    that the cache has not, or has of an earlier state only."""
    if policy is not Payloads.ERRORS or seen.status not in FAILED:
        return False
    return (
        known is None
        or known.deleted
        or not known.payloads_loaded
        or known.content_hash != _observed(application_name, seen).content_hash()
    )


def diff_workflow(
    application_name: str,
    known: KnownWorkflow | None,
    seen: Workflow,
    *,
    payloads_loaded: bool = False,
) -> Event | None:
    """What a look at one workflow tells; None when it is as it was."""
    observed = _observed(application_name, seen, payloads_loaded=payloads_loaded)
    if known is None or known.deleted:
        return observed
    same_payloads = not payloads_loaded or (
        known.payloads_loaded and without_noise(known.error) == without_noise(observed.error)
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
    policy: Payloads,
) -> list[Event]:
    """The whole new list when anything differs; steps that are gone are discarded first."""
    now = tuple(
        StepState(
            step_id=step.step_id,
            step_name=step.step_name,
            child_workflow_id=step.child_workflow_id,
            started_at=step.started_at,
            completed_at=step.completed_at,
            error=None if policy is Payloads.NONE else clip(step.error),
        )
        for step in sorted(seen, key=lambda step: step.step_id)
    )
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


def clip(payload: str | None) -> str | None:
    """A payload bounded to what the cache keeps, the cut marked."""
    if payload is None or len(payload) <= MAX_PAYLOAD_CHARACTERS:
        return payload
    # Half an address would no longer be known as noise.
    kept = _CUT_ADDRESS.sub("", payload[:MAX_PAYLOAD_CHARACTERS])
    return f"{kept}… [cut: {len(payload)} characters in all]"


def _comparable(step: StepState) -> StepState:
    return step.model_copy(update={"error": without_noise(step.error)})


def _observed(
    application_name: str, seen: Workflow, *, payloads_loaded: bool = False
) -> WorkflowObserved:
    return WorkflowObserved.model_validate(
        {
            **vars(seen),
            "application_name": application_name,
            "occurred_at": seen.updated_at,
            "owning_application": (
                None if seen.application_name == application_name else seen.application_name
            ),
            "payloads_loaded": payloads_loaded,
            "input": None,
            "output": None,
            "error": clip(seen.error) if payloads_loaded else None,
        }
    )
