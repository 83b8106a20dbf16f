"""The read models, one file each. Later ones may read the tables of earlier ones."""

from dbos_mcp.store.projections import applications, commands, executors, steps, workflows
from dbos_mcp.store.projections.base import Projection

PROJECTIONS: tuple[Projection, ...] = (
    applications.PROJECTION,
    executors.PROJECTION,
    workflows.PROJECTION,
    steps.PROJECTION,
    commands.PROJECTION,
)
