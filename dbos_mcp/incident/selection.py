"""Which workflows belong to an incident: the one it is about with its family, what failed in the
same way, and runs that did not, to compare it with; or whatever happened since a time."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, and_, case, func, or_, select
from sqlalchemy.orm import Mapped
from sqlmodel import col

from dbos_mcp.domain import FAILED, IN_FLIGHT, WorkflowStatus, format_time
from dbos_mcp.errors import NotFoundError, UsageError
from dbos_mcp.incident import LIMIT as LIMIT
from dbos_mcp.postmortem.causes import find_causes
from dbos_mcp.postmortem.failures import FAILED_AT, TIMED_OUT, Window, failed_alike
from dbos_mcp.queries.applications import require_application
from dbos_mcp.settings import DAY_MS
from dbos_mcp.store.projections.applications import ApplicationRow
from dbos_mcp.store.projections.workflows import WorkflowRow
from dbos_mcp.store.tables import batches

MOST_ANCESTORS = 50
MOST_ALIKE = 200
PEERS = 50
"""Runs that succeeded, for each workflow name in the chain of the failure."""
_WINDOW_MS = DAY_MS

_KEY: Mapped[int] = col(WorkflowRow.id)


@dataclass
class Selection:
    """Workflows by their keys, of any number of applications."""

    subject: str
    limit: int
    keys: dict[str, dict[int, None]] = field(default_factory=dict)
    """By application name."""
    parts: dict[str, int] = field(default_factory=dict)
    """How many workflows came for which reason, each for the first one that holds."""
    left_out: list[str] = field(default_factory=list)

    @property
    def workflows(self) -> int:
        return sum(map(len, self.keys.values()))

    def add(self, application_name: str, reason: str, keys: Iterable[int]) -> None:
        """As many as there is room for."""
        chosen = self.keys.setdefault(application_name, {})
        new = [key for key in dict.fromkeys(keys) if key not in chosen]
        room = max(0, self.limit - self.workflows)
        chosen.update(dict.fromkeys(new[:room]))
        self.parts[reason] = self.parts.get(reason, 0) + min(room, len(new))
        if len(new) > room:
            self.left_out.append(f"{len(new) - room} of the {reason}")


def select_workflow(
    connection: Connection, application_name: str | None, workflow_id: str, *, limit: int = LIMIT
) -> Selection:
    """Everything that belongs to one workflow.

    Raises:
        NotFoundError: the mirror has never seen it.
        UsageError: several applications have one of that id.
    """
    application_name, key = find_workflow(connection, application_name, workflow_id)
    selection = Selection(f"{workflow_id} of {application_name}, and what belongs to it", limit)
    family = _Family(connection, application_name)
    selection.add(application_name, "workflow", [key])
    ancestors = list(family.line(key, "parent_workflow_id"))
    selection.add(application_name, "ancestors", ancestors)
    sources = list(family.line(key, "forked_from"))
    forks = list(family.below([key], "forked_from", limit))
    selection.add(application_name, "fork sources and forks", [*sources, *forks])
    descendants = family.below([key, *sources, *forks], "parent_workflow_id", limit + 1)
    selection.add(application_name, "descendants", descendants)

    names = [family.name_of(key)]
    failed_at = connection.execute(select(FAILED_AT).where(_KEY.in_([key]))).scalar_one()
    around = Window(failed_at - _WINDOW_MS, failed_at + _WINDOW_MS)
    chains = failed_alike(connection, application_name, key, around)
    chains.sort(key=lambda chain: abs(chain[0].workflow.failed_at - failed_at))
    own = next((chain for chain in chains if chain[0].workflow.key == key), [])
    names += [link.workflow.workflow_name for link in own]
    selection.add(
        application_name,
        "failures of the same cause",
        [link.workflow.key for chain in chains[:MOST_ALIKE] for link in chain],
    )
    if len(chains) > MOST_ALIKE:
        selection.left_out.append(
            f"{len(chains) - MOST_ALIKE} of {len(chains)} failures of the same cause within a day"
            " before or after"
        )
    for name in dict.fromkeys(names):
        peers = _succeeded(connection, application_name, name, failed_at)
        # What a run was given may explain itself only by what its parents were.
        with_parents = [*peers, *family.above(peers)]
        selection.add(application_name, "successful runs to compare with", with_parents)
    return selection


def select_since(
    connection: Connection, application_name: str | None, since: int, *, limit: int = LIMIT
) -> Selection:
    """What began, ended, failed or ran since a time, what failed first, then what still runs, then
    the newest; and where those failures began.

    Raises:
        NotFoundError: an application that was never listed, or nothing happened.
    """
    if application_name is None:
        names = connection.execute(select(col(ApplicationRow.application_name))).scalars().all()
    else:
        require_application(connection, application_name)
        names = [application_name]
    of = application_name or "all applications"
    selection = Selection(f"what happened in {of} since {format_time(since)}", limit)
    found = [
        (rank, -created_at, name, key)
        for name in names
        for key, rank, created_at in _touched(connection, name, since)
    ]
    if not found:
        raise NotFoundError(
            f"Nothing happened in {of} since {format_time(since)}, as far as is mirrored.",
            hint="Give an earlier time; `dbos-mcp sync` mirrors what is new.",
        )
    found.sort()
    for rank, reason in enumerate(("failures", "workflows in flight", "others")):
        for name in names:
            keys = [key for its_rank, _, app, key in found if (its_rank, app) == (rank, name)]
            selection.add(name, reason, keys)
    failed = {
        name: [key for rank, _, app, key in found[:limit] if (rank, app) == (0, name)]
        for name in names
    }
    selection.limit += limit  # a failure is little without where it began
    for name, keys in failed.items():
        family = _Family(connection, name)
        selection.add(name, "ancestors and causes of failures", family.above(keys))
        causes = find_causes(connection, name, keys)
        selection.add(name, "ancestors and causes of failures", causes.links)
    return selection


def find_workflow(
    connection: Connection, application_name: str | None, workflow_id: str
) -> tuple[str, int]:
    """Its application and its key.

    Raises:
        NotFoundError: the mirror has never seen it.
        UsageError: several applications have one of that id.
    """
    if application_name is not None:
        require_application(connection, application_name)
    known = select(col(ApplicationRow.application_name))
    rows = connection.execute(
        select(col(WorkflowRow.application_name), _KEY).where(
            col(WorkflowRow.workflow_id) == workflow_id,
            col(WorkflowRow.application_name).in_(
                known if application_name is None else [application_name]
            ),
        )
    ).all()
    if not rows:
        raise NotFoundError(
            f"No workflow {workflow_id!r} is mirrored.",
            hint="`dbos-mcp sync` mirrors what is new; --cache names another mirror.",
        )
    if len(rows) > 1:
        names = ", ".join(row.application_name for row in rows)
        raise UsageError(
            f"Several applications have a workflow {workflow_id!r}.",
            hint=f"Name one with --application: {names}.",
        )
    return rows[0].application_name, rows[0].id


class _Family:
    """Who is related to whom, by a column that holds the other's id. Ids are the application's:
    nothing keeps them from going round in a circle."""

    def __init__(self, connection: Connection, application_name: str) -> None:
        self._connection = connection
        self._here = col(WorkflowRow.application_name) == application_name

    def name_of(self, key: int) -> str | None:
        return self._connection.execute(
            select(col(WorkflowRow.workflow_name)).where(_KEY.in_([key]))
        ).scalar_one()

    def line(self, key: int, column: str) -> Iterator[int]:
        """Upwards from one."""
        for _ in range(MOST_ANCESTORS):
            found = next(iter(self._upwards([key], column)), None)
            if found is None:
                return
            key = found
            yield key

    def above(self, keys: Sequence[int]) -> dict[int, None]:
        """The ancestors of many."""
        seen: dict[int, None] = {}
        level = list(keys)
        for _ in range(MOST_ANCESTORS):
            level = [
                key
                for batch in batches(level)
                for key in self._upwards(batch, "parent_workflow_id")
                if key not in seen
            ]
            seen.update(dict.fromkeys(level))
            if not level:
                break
        return seen

    def below(self, keys: Sequence[int], column: str, most: int) -> dict[int, None]:
        """All that name one of them in the column, at any depth, the nearest first."""
        seen: dict[int, None] = dict.fromkeys(keys)
        level = list(keys)
        while level and len(seen) < most:
            found: dict[int, None] = {}
            for batch in batches(level):
                ids = select(col(WorkflowRow.workflow_id)).where(_KEY.in_(batch))
                rows = self._connection.execute(
                    select(_KEY)
                    .where(self._here, col(getattr(WorkflowRow, column)).in_(ids))
                    .limit(most)
                )
                found.update((key, None) for key in rows.scalars() if key not in seen)
            seen.update(found)
            level = list(found)
        return {key: None for key in seen if key not in keys}

    def _upwards(self, keys: Sequence[int], column: str) -> list[int]:
        ids = select(col(getattr(WorkflowRow, column))).where(_KEY.in_(keys))
        return list(
            self._connection.execute(
                select(_KEY).where(self._here, col(WorkflowRow.workflow_id).in_(ids))
            ).scalars()
        )


def _succeeded(
    connection: Connection, application_name: str, workflow_name: str | None, moment: int
) -> list[int]:
    """The runs of a name that were created nearest to a moment, on either side of it."""
    created_at = col(WorkflowRow.created_at)
    runs = (
        select(_KEY, created_at)
        .where(
            col(WorkflowRow.application_name) == application_name,
            col(WorkflowRow.workflow_name) == workflow_name,
            col(WorkflowRow.status) == WorkflowStatus.SUCCESS,
        )
        .limit(PEERS)
    )
    before = connection.execute(runs.where(created_at <= moment).order_by(created_at.desc()))
    after = connection.execute(runs.where(created_at > moment).order_by(created_at))
    nearest = sorted([*before, *after], key=lambda row: abs(row.created_at - moment))
    return [row.id for row in nearest[:PEERS]]


def _touched(
    connection: Connection, application_name: str, since: int
) -> Iterator[tuple[int, int, int]]:
    """Key, rank and creation of what began, ended or ran since a time."""
    status, ended = col(WorkflowRow.status), col(WorkflowRow.completed_at)
    failed: ColumnElement[bool] = or_(status.in_(FAILED), TIMED_OUT)
    rank = case((failed, 0), (status.in_(IN_FLIGHT), 1), else_=2)
    rows = connection.execute(
        select(_KEY, rank, col(WorkflowRow.created_at)).where(
            col(WorkflowRow.application_name) == application_name,
            or_(
                col(WorkflowRow.created_at) >= since,
                ended >= since,
                and_(ended.is_(None), col(WorkflowRow.updated_at) >= since),
                and_(status.in_(IN_FLIGHT), col(WorkflowRow.deleted_at).is_(None)),
                func.coalesce(col(WorkflowRow.deleted_at), 0) >= since,
            ),
        )
    )
    yield from map(tuple, rows)
