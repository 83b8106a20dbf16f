"""A thousand changes of a system database, as DBOS and its users would make them.

Each statement sets the columns that DBOS 3.4 sets for that transition, at the database's clock.
"""

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import time
from typing import Any
from uuid import UUID

from benchmarks.generate import serialize
from dbos_mcp.demo.tour import APPLICATION_NAME

Statuses = dict[str, str | None]
"""What a workflow's status must come to; None: gone."""


def apply_changes(path: Path, *, seed: int = 2) -> dict[str, Statuses]:
    """Change the database in one transaction; by kind of change, what is to be seen of it.

    Of the last kind, deletions of workflows that had ended, nothing tells but an audit.
    """
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        changes = _Changes(connection, random.Random(seed)).make()
        connection.execute("COMMIT")
    return changes


DELETED_AFTER_ITS_END = "deleted after its end"


class _Changes:
    def __init__(self, connection: sqlite3.Connection, pick: random.Random) -> None:
        self.connection = connection
        self.pick = pick
        self.now = int(time() * 1000)

    def make(self) -> dict[str, Statuses]:
        pending, enqueued, delayed = map(self._ids, ("PENDING", "ENQUEUED", "DELAYED"))
        cancelled, succeeded = self._ids("CANCELLED"), self._ids("SUCCESS", limit=5000)
        either = pending + enqueued
        completed, errored = either[:150], either[150:170]
        gone, stopped = either[170:200], either[200:240]
        dequeued = [i for i in either[240:] if i in set(enqueued)][:60]
        return {
            "created": self._create(300, "ENQUEUED"),
            "created and ended": self._create(200, "SUCCESS"),
            "succeeded": self._each(completed, "SUCCESS", self._end),
            "failed": self._each(errored, "ERROR", self._end),
            "dequeued": self._each(dequeued, "PENDING", self._dequeue),
            "delay over": self._each(delayed[:10], "ENQUEUED", self._enqueue),
            "cancelled": self._each(stopped, "CANCELLED", self._cancel),
            "resumed": self._each(cancelled[:120], "ENQUEUED", self._resume),
            "resumed and ended": self._each(cancelled[120:190], "SUCCESS", self._resume_and_end),
            "deleted in flight": self._each(gone, None, self._delete),
            DELETED_AFTER_ITS_END: self._each(succeeded[:100], None, self._delete),
        }

    def _ids(self, status: str, limit: int = -1) -> list[str]:
        rows = self.connection.execute(
            "SELECT workflow_uuid FROM workflow_status WHERE status = ? LIMIT ?", (status, limit)
        )
        ids = sorted(workflow_id for (workflow_id,) in rows)
        self.pick.shuffle(ids)
        return ids

    def _each(
        self, ids: list[str], status: str | None, change: Callable[[str, str | None], None]
    ) -> Statuses:
        for workflow_id in ids:
            change(workflow_id, status)
        return dict.fromkeys(ids, status)

    def _set(self, workflow_id: str, **values: Any) -> None:
        columns = ", ".join(f"{column} = ?" for column in values)
        self.connection.execute(
            f"UPDATE workflow_status SET {columns} WHERE workflow_uuid = ?",
            (*values.values(), workflow_id),
        )

    def _insert(self, table: str, **values: Any) -> None:
        self.connection.execute(
            f"INSERT OR REPLACE INTO {table} ({', '.join(values)})"
            f" VALUES ({', '.join('?' * len(values))})",
            tuple(values.values()),
        )

    def _create(self, count: int, status: str) -> Statuses:
        ids = [str(UUID(int=self.pick.getrandbits(128), version=4)) for _ in range(count)]
        for workflow_id in ids:
            self._insert(
                "workflow_status",
                workflow_uuid=workflow_id,
                status="ENQUEUED",
                name="pick_items",
                created_at=self.now,
                updated_at=self.now,
                queue_name="warehouse",
                priority=0,
                serialization="py_pickle",
                attributes="null",
                application_name=APPLICATION_NAME,
            )
            inputs = serialize({"args": (), "kwargs": {}})
            self._insert("workflow_input", workflow_uuid=workflow_id, inputs=inputs)
            if status == "SUCCESS":
                self._dequeue(workflow_id)
                self._end(workflow_id, status)
        return dict.fromkeys(ids, status)

    def _dequeue(self, workflow_id: str, status: str | None = "PENDING") -> None:
        self._set(
            workflow_id,
            status=status,
            started_at_epoch_ms=self.now,
            updated_at=self.now,
            executor_id="shop-6f9c7d5b8-x2vqk",
            recovery_attempts=1,
        )

    def _enqueue(self, workflow_id: str, status: str | None) -> None:
        self._set(workflow_id, status=status)

    def _end(self, workflow_id: str, status: str | None) -> None:
        self._set(
            workflow_id,
            status=status,
            deduplication_id=None,
            owner_xid=None,
            updated_at=self.now,
            completed_at=self.now,
        )
        failed = status == "ERROR"
        self._insert(
            "workflow_output",
            workflow_uuid=workflow_id,
            output=None if failed else serialize("done"),
            error=serialize(ValueError("the parcel is too heavy")) if failed else None,
        )

    def _cancel(self, workflow_id: str, status: str | None) -> None:
        self._set(
            workflow_id,
            status=status,
            owner_xid=None,
            queue_name=None,
            deduplication_id=None,
            started_at_epoch_ms=None,
            updated_at=self.now,
            completed_at=self.now,
        )

    def _resume(self, workflow_id: str, status: str | None = "ENQUEUED") -> None:
        self._set(
            workflow_id,
            status=status,
            owner_xid=None,
            queue_name="_dbos_internal_queue",
            recovery_attempts=0,
            workflow_deadline_epoch_ms=None,
            deduplication_id=None,
            started_at_epoch_ms=None,
            updated_at=self.now,
            completed_at=None,
        )

    def _resume_and_end(self, workflow_id: str, status: str | None) -> None:
        self._resume(workflow_id)
        self._dequeue(workflow_id)
        self._end(workflow_id, status)

    def _delete(self, workflow_id: str, _status: str | None) -> None:
        for table in ("workflow_input", "workflow_output", "operation_outputs", "workflow_status"):
            self.connection.execute(f"DELETE FROM {table} WHERE workflow_uuid = ?", (workflow_id,))
