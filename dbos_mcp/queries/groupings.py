"""By what workflows are counted: the words alone, for whoever asks and whoever counts."""

from typing import Literal

COLUMNS = (
    "status",
    "workflow_name",
    "queue_name",
    "executor_id",
    "application_version",
    "schedule_name",
)
PERIODS_MS = {"hour": 3_600_000, "day": 86_400_000}
GROUPINGS = (*COLUMNS, *PERIODS_MS)

OrderBy = Literal["count", "failure_rate", "p95"]
