"""A real DBOS application in which one currency is formatted wrongly by the first of three
workflows, and only the last of them fails of it; what names the currency is the first one's input
alone. It says `ready` once all orders have come to their end; with `mended`, at once, and then for
each id that it reads it waits for the end of that workflow and says its status."""

from typing import Any

from dbos import DBOS, SetWorkflowID, WorkflowHandle

from tests.postmortem.served import MENDED, serve, status_of

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


def run() -> None:
    for handle in [start(number) for number in range(ORDERS)]:
        status_of(handle)


if __name__ == "__main__":
    serve(run)
