"""The shop is what its docstring says: the other tests stand on it."""

import sqlite3
from contextlib import closing
from pathlib import Path


def test_orders_to_belfast_fail_three_workflows_deep(shop_leftover: Path) -> None:
    with closing(sqlite3.connect(shop_leftover)) as database:
        rows = database.execute(
            "SELECT name, count(*) FROM workflow_status WHERE status = 'ERROR' GROUP BY name"
        ).fetchall()
        failing = database.execute(
            "SELECT DISTINCT function_name FROM operation_outputs"
            " WHERE error IS NOT NULL AND child_workflow_id IS NULL"
        ).fetchall()
    assert dict(rows) == {"book_courier": 2, "fulfil_order": 2, "place_order": 2}
    assert [name for (name,) in failing] == ["quote_delivery"]


def test_a_killed_shop_leaves_work_in_every_in_flight_status(shop_leftover: Path) -> None:
    with closing(sqlite3.connect(shop_leftover)) as database:
        statuses = {row[0] for row in database.execute("SELECT status FROM workflow_status")}
    assert statuses == {"SUCCESS", "ERROR", "PENDING", "ENQUEUED", "DELAYED"}
