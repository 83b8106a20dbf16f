"""A cache with a past, and damage to do to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dbos_mcp.store import projector
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.events import ApplicationObserved, ExecutorObserved
from tests.store.conftest import opened
from tests.store.factories import BORN, SHOP, changed, deleted, issued, observed, settled, steps

NOW = BORN + 1_000_000
ORDERS = 80


def record_orders(cache: Cache, orders: int = ORDERS) -> None:
    """A shop whose orders begin at one time and end later; the last ten have not."""
    shop = ApplicationObserved(**SHOP, application_id="a-1", status="AVAILABLE")
    worker = {**SHOP, "executor_id": "e-1", "created_at": BORN}
    with cache.write() as connection:
        first = ExecutorObserved(**worker, status="HEALTHY", updated_at=BORN)
        projector.record(connection, [shop, first], recorded_at=BORN)
        begun = [observed(f"order-{n}", workflow_name="restock") for n in range(orders)]
        projector.record(connection, begun, recorded_at=BORN + 1_000)
    with cache.write() as connection:
        ended = [
            event
            for n in range(orders - 10)
            for event in (
                steps(f"order-{n}", "reserve"),
                changed(
                    f"order-{n}", status="ERROR", updated_at=BORN + 9, completed_at=BORN + 9,
                    error=f"no {n} left" * 40, payloads_loaded=True, workflow_name="restock",
                ),
                steps(f"order-{n}", "reserve", "charge"),
            )
        ]  # fmt: skip
        projector.record(connection, ended, recorded_at=BORN + 2_000)
        projector.record(
            connection,
            [
                issued(workflow_id="order-1", command="delete"),
                settled(workflow_id="order-1"),
                deleted("order-1"),
                *(
                    ExecutorObserved(**worker, status=status, updated_at=BORN + 1)
                    for status in ("DEAD", "HEALTHY", "DEAD")
                ),
            ],
            recorded_at=BORN + 3_000,
        )


@pytest.fixture
def cache(cache_path: Path) -> Iterator[Cache]:
    with opened(cache_path) as cache:
        record_orders(cache)
        yield cache
