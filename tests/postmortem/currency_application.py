"""A real DBOS application in which one currency is formatted wrongly: the step that makes the text
succeeds, and the next one fails of it. It says `ready` once all payments have come to their end."""

import os
import sys
from typing import Any

from dbos import DBOS, SetWorkflowID

PAYMENTS = 42
CURRENCIES = ("GBP", "EUR", "USD", "GBP", "USD", "GBP", "USD")


@DBOS.step()
def load_account(currency: str) -> str:
    return f"sales-{currency.lower()}"


@DBOS.step()
def format_amount(cents: int, currency: str) -> str:
    amount = f"{cents / 100:.2f}"
    return amount.replace(".", ",") if currency == "EUR" else amount


@DBOS.step()
def post_to_ledger(account: str, amount: str) -> str:
    return f"{account}: {float(amount):.2f}"


@DBOS.workflow()
def post_payment(payment: dict[str, Any]) -> str:
    account = load_account(payment["currency"])
    return post_to_ledger(account, format_amount(payment["cents"], payment["currency"]))


@DBOS.workflow()
def order(payment: dict[str, Any]) -> str:
    return post_payment(payment)


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
    for number in range(PAYMENTS):
        payment = {"cents": 17000 + 37 * number, "currency": CURRENCIES[number % 7], "lines": [1]}
        with SetWorkflowID(f"order-{number}"):
            handle = DBOS.start_workflow(order, payment)
        try:
            handle.get_result(polling_interval_sec=0.01)
        except Exception as error:
            DBOS.logger.debug("%r", error)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
