"""A real DBOS application in which one currency is formatted wrongly: the step that makes the text
succeeds, and the next one fails of it. It says `ready` once all payments have come to their end."""

from typing import Any

from dbos import DBOS, SetWorkflowID, WorkflowHandle

from tests.postmortem.served import serve, status_of

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


def start(number: int) -> WorkflowHandle[str]:
    payment = {"cents": 17000 + 37 * number, "currency": CURRENCIES[number % 7], "lines": [1]}
    with SetWorkflowID(f"order-{number}"):
        return DBOS.start_workflow(order, payment)


def run() -> None:
    for handle in [start(number) for number in range(PAYMENTS)]:
        status_of(handle)


if __name__ == "__main__":
    serve(run)
