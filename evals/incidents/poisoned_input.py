"""Euros are formatted with a comma: the step that made the text succeeds, the next one fails."""

from typing import TYPE_CHECKING, Any

from dbos import DBOS, SetWorkflowID

from evals.application import run_all
from evals.incident import Call, Fact, Incident, Sign, Verdict

if TYPE_CHECKING:
    from evals.upstream import Upstream

ORDERS = 300
CURRENCIES = ("GBP", "EUR", "USD", "GBP", "USD", "GBP", "USD")
Order = dict[str, Any]


@DBOS.step()
def check_basket(order: Order) -> int:
    return len(order["items"])


@DBOS.step()
def reserve_stock(order: Order) -> str:
    if order["number"] % 60 == 9:  # as it always was
        raise LookupError(f"no tea for order {order['number']}")
    return f"reserved for {order['number']}"


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
def post_payment(order: Order) -> str:
    account = load_account(order["payment"]["currency"])
    amount = format_amount(order["payment"]["cents"], order["payment"]["currency"])
    return post_to_ledger(account, amount)


@DBOS.workflow()
def settle_order(order: Order) -> str:
    reserve_stock(order)
    return post_payment(order)


@DBOS.workflow()
def place_order(order: Order) -> str:
    check_basket(order)
    return settle_order(order)


def _place(number: int) -> Any:
    order = {
        "number": number,
        "items": ["tea", "cups"][: 1 + number % 2],
        "payment": {
            "cents": 17000 + 37 * number,
            "currency": CURRENCIES[number % len(CURRENCIES)],
        },
    }
    with SetWorkflowID(f"order-{number}"):
        return DBOS.start_workflow(place_order, order)


def place_orders() -> None:
    run_all(_place, range(ORDERS))


async def seed(upstream: "Upstream") -> None:
    await upstream.run(place_orders)


INCIDENT = Incident(
    name="poisoned_input",
    application_name="billing",
    question="Some orders fail and some do not: which, and why?",
    seed=seed,
    signs=(
        Sign(
            Call("get_workflow_aggregates", {"group_by": ["workflow_name", "status"]}),
            (
                Fact("failed orders", "place_order", "ERROR", "48"),
                Fact("failed payments", "post_payment", "ERROR", "43"),
                Fact("other payments", "post_payment", "SUCCESS", "252"),
            ),
        ),
        Sign(
            Call("list_steps", {"workflow_id": "order-1-2-2"}),
            (
                Fact("the failed step", "3", "post_to_ledger", "'170,37'"),
                Fact("the step before it", "2", "format_amount"),
            ),
        ),
        Sign(
            Call(
                "list_steps", {"workflow_id": "order-1-2-2", "step_id": 2, "include_output": True}
            ),
            (Fact("the wrong value", "output: 170,37"),),
        ),
    ),
    first_call=Call("list_failures", {"since": "-1h"}),
    verdict=Verdict(
        facts=(
            Fact("where it began", "verdict", "post_payment", "post_to_ledger"),
            Fact("which step made the wrong value", "verdict", "format_amount"),
            Fact("that it is the euros", "currency", "EUR", "43 of 43"),
            Fact("from where a fork would mend it", "fork_workflow", "start_step=2"),
        ),
        forbidden=(
            Fact("that it began before", "verdict", "check_basket|reserve_stock|load_account"),
            Fact("that another currency is to blame", "verdict", "GBP|USD"),
            Fact("a fork that replays the wrong value", "fork_workflow", "start_step=3"),
        ),
    ),
)
