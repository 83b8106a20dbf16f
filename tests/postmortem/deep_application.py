"""A real DBOS application in which one currency is formatted wrongly by the first of three
workflows, and only the last of them fails of it; what names the currency is the first one's input
alone. It says `ready` once all orders have come to their end; with `mended`, at once, and then for
each id that it reads it waits for the end of that workflow and says its status."""

import os
import sys
from contextlib import suppress
from typing import Any

from dbos import DBOS, SetWorkflowID, WorkflowHandle

MENDED = sys.argv[2:] == ["mended"]
ORDERS = 42
CURRENCIES = ("GBP", "EUR", "USD", "GBP", "USD", "GBP", "USD")


@DBOS.step()
def check_basket(lines: int) -> int:
    return lines


@DBOS.step()
def format_amount(cents: int, currency: str) -> str:
    amount = f"{cents / 100:.2f}"
    return amount.replace(".", ",") if currency == "EUR" and not MENDED else amount


@DBOS.step()
def reserve_stock(number: int) -> str:
    return f"reserved for {number}"


@DBOS.step()
def load_account() -> str:
    return "sales"


@DBOS.step()
def post_to_ledger(account: str, amount: str) -> str:
    return f"{account}: {float(amount):.2f}"


@DBOS.workflow()
def post_payment(amount: str) -> str:
    return post_to_ledger(load_account(), amount)


@DBOS.workflow()
def settle_order(number: int, amount: str) -> str:
    reserve_stock(number)
    return post_payment(amount)


@DBOS.workflow()
def place_order(order: dict[str, Any]) -> str:
    check_basket(order["lines"])
    return settle_order(order["number"], format_amount(order["cents"], order["currency"]))


def start(number: int) -> WorkflowHandle[str]:
    order = {
        **{"number": number, "lines": 1 + number % 2, "cents": 17000 + 37 * number},
        "currency": CURRENCIES[number % len(CURRENCIES)],
    }
    with SetWorkflowID(f"order-{number}"):
        return DBOS.start_workflow(place_order, order)


def status_of(handle: WorkflowHandle[Any]) -> str:
    with suppress(ValueError):
        handle.get_result(polling_interval_sec=0.02)
    return handle.get_status().status


def main() -> None:
    DBOS(
        config={
            "name": "shop",
            "system_database_url": sys.argv[1],
            "application_version": "1.0",
            "executor_id": "shop-1",
            "log_level": "CRITICAL",
        }
    )
    DBOS.launch()
    if not MENDED:
        for handle in [start(number) for number in range(ORDERS)]:
            status_of(handle)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(status_of(DBOS.retrieve_workflow(line.strip())) + "\n")
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
