"""A small shop as a real DBOS application: the demo's and the tests' upstream.

It runs as a process of its own (`python -m dbos_mcp.demo.shop`), places orders, says `ready` on
stdout once every order has come to its end, and then stays up, with work still in flight, until
its stdin is closed. Orders to Belfast fail: `quote_delivery` knows no rate for the BT postcode
area. The bug is three workflows deep: place_order → fulfil_order → book_courier. With `--mended` it
knows one.
"""

import argparse
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypedDict

from dbos import (
    DBOS,
    SetEnqueueOptions,
    SetWorkflowAttributes,
    SetWorkflowID,
    WorkflowHandle,
)

APPLICATION_NAME = "shop"
EMAILS = "emails"
WAREHOUSE = "warehouse"

CITIES = {
    "Leeds": "LS1 4AP",
    "Bristol": "BS1 5TR",
    "Cardiff": "CF10 3NP",
    "Glasgow": "G1 1XQ",
    "Belfast": "BT1 5GS",
}
RATES_PENCE = {"LS": 395, "BS": 450, "CF": 475, "G": 620}
FORGOTTEN_RATE_PENCE = {"BT": 780}


class Order(TypedDict):
    order_id: str
    number: int
    city: str
    total_pence: int


class PaymentGatewayBusyError(Exception):
    """The payment gateway asks to try again."""


_attempts: dict[int, int] = {}


@DBOS.step()
def check_stock(order: Order) -> int:
    return 1 + order["number"] % 3


@DBOS.step(retries_allowed=True, max_attempts=4, interval_seconds=0.01)
def charge_card(order: Order) -> str:
    _attempts[order["number"]] = _attempts.get(order["number"], 0) + 1
    if order["number"] % 4 == 0 and _attempts[order["number"]] < 3:
        raise PaymentGatewayBusyError(f"gateway busy, attempt {_attempts[order['number']]}")
    return f"payment-{order['number']}"


@DBOS.step()
def reserve_items(order: Order) -> list[str]:
    return [f"shelf-{order['number'] % 7}"]


@DBOS.step()
def find_depot(city: str) -> str:
    return CITIES[city].split(" ")[0].rstrip("0123456789")


@DBOS.step()
def quote_delivery(area: str) -> int:
    return RATES_PENCE[area]


@DBOS.step()
def confirm_courier(order: Order, pence: int) -> str:
    return f"courier for {order['order_id']} at {pence}p"


@DBOS.step()
def render_receipt(order_id: str) -> str:
    return f"Receipt for {order_id}"


@DBOS.step()
def send_email(text: str) -> bool:
    return bool(text)


@DBOS.step()
def export_ledger(page: int) -> int:
    return page * 500


@DBOS.workflow()
def book_courier(order: Order) -> str:
    area = find_depot(order["city"])
    return confirm_courier(order, quote_delivery(area))


@DBOS.workflow()
def fulfil_order(order: Order) -> str:
    DBOS.write_stream("progress", "reserving items")
    reserve_items(order)
    DBOS.write_stream("progress", "booking a courier")
    return book_courier(order)


@DBOS.workflow()
def email_receipt(order_id: str) -> bool:
    return send_email(render_receipt(order_id))


@DBOS.workflow()
def place_order(order: Order) -> str:
    check_stock(order)
    payment = charge_card(order)
    DBOS.set_event("payment", payment)
    DBOS.enqueue_workflow(EMAILS, email_receipt, order["order_id"])
    return fulfil_order(order)


@DBOS.workflow()
def pick_items(shelf: str) -> str:
    """Waits for a picker's message, so the warehouse queue behind it stays full."""
    picker = DBOS.recv("picker", timeout_seconds=3600)
    return f"{shelf} by {picker}"


@DBOS.workflow()
def reconcile_payments(pages: int) -> int:
    """Sleeps between pages, so it stays PENDING long enough to be cancelled."""
    total = 0
    for page in range(1, pages + 1):
        total += export_ledger(page)
        DBOS.sleep(3600)
    return total


@DBOS.workflow()
def restock(shelf: str) -> str:
    return shelf


@DBOS.workflow()
def nightly_report(scheduled_at: datetime, context: Any) -> None:
    DBOS.set_event("report", f"{context} at {scheduled_at:%Y-%m-%d}")


def make_orders(count: int, first: int = 1001) -> list[Order]:
    cities = list(CITIES)
    return [
        Order(
            order_id=f"order-{number}",
            number=number,
            city=cities[index % len(cities)],
            total_pence=1250 + 37 * index,
        )
        for index, number in enumerate(range(first, first + count))
    ]


def place(order: Order) -> WorkflowHandle[str]:
    with (
        SetWorkflowID(order["order_id"]),
        SetWorkflowAttributes(
            {"city": order["city"], "customer": f"customer-{order['number'] % 9}"}
        ),
    ):
        return DBOS.start_workflow(place_order, order)


def settle(handle: WorkflowHandle[Any]) -> None:
    """Wait for the end of a workflow, however it ends: its error is in the database."""
    try:
        handle.get_result(polling_interval_sec=0.05)
    except Exception as error:  # noqa: BLE001 # whatever a workflow raises
        DBOS.logger.debug("%s ended with %r", handle.get_workflow_id(), error)


def open_shop(system_database_url: str, application_version: str, executor_id: str) -> None:
    DBOS(
        config={
            "name": APPLICATION_NAME,
            "system_database_url": system_database_url,
            "application_version": application_version,
            "executor_id": executor_id,
            "notification_listener_polling_interval_sec": 0.05,
            "log_level": "CRITICAL",
        }
    )
    DBOS.launch()
    DBOS.register_queue(EMAILS, global_concurrency=4, polling_interval_sec=0.05)
    DBOS.register_queue(WAREHOUSE, global_concurrency=1, polling_interval_sec=0.05)
    DBOS.apply_schedules(
        [
            {
                "schedule_name": "nightly-report",
                "workflow_fn": nightly_report,
                "schedule": "0 3 * * *",
                "context": "sales",
            }
        ]
    )


def open_work() -> None:
    """What stays in flight: a waiting queue, a sleeping workflow, a delayed one."""
    for shelf in ("shelf-1", "shelf-2", "shelf-3"):
        with SetWorkflowID(f"pick-{shelf}"):
            DBOS.enqueue_workflow(WAREHOUSE, pick_items, shelf)
    with SetWorkflowID("reconcile-1"):
        DBOS.start_workflow(reconcile_payments, 12)
    with SetWorkflowID("restock-1"), SetEnqueueOptions(delay_seconds=24 * 3600):
        DBOS.enqueue_workflow(WAREHOUSE, restock, "shelf-1")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--system-database-url", required=True)
    parser.add_argument("--orders", type=int, default=24)
    parser.add_argument("--application-version", default="1.4.0")
    parser.add_argument("--executor-id", default="shop-1")
    parser.add_argument("--mended", action="store_true", help="the bug is not there")
    options = parser.parse_args(arguments)

    if options.mended:
        RATES_PENCE.update(FORGOTTEN_RATE_PENCE)
    open_shop(options.system_database_url, options.application_version, options.executor_id)
    open_work()
    orders = make_orders(options.orders)
    with ThreadPoolExecutor(max_workers=4) as clerks:
        for handle in clerks.map(place, orders):
            settle(handle)
    for receipt in DBOS.list_workflows(name="email_receipt", load_input=False, load_output=False):
        settle(DBOS.retrieve_workflow(receipt.workflow_id))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()  # the parent's end closes it, so no shop is left behind
    os._exit(0)  # sleeping workflows would hold up an orderly exit for an hour


if __name__ == "__main__":
    main()
