"""Version 3.2.0 reads a field of the input that only newer clients send."""

from typing import TYPE_CHECKING, Any

from dbos import DBOS, SetWorkflowID

from evals.application import run_all
from evals.incident import Call, Fact, Incident, Sign, Verdict

if TYPE_CHECKING:
    from evals.upstream import Upstream

Parcel = dict[str, Any]


@DBOS.step()
def check_address(parcel: Parcel) -> str:
    if parcel["postcode"] is None:
        raise ValueError(f"parcel {parcel['number']} has no postcode")
    return str(parcel["postcode"])


@DBOS.step()
def buy_label(parcel: Parcel) -> str:
    if DBOS.application_version == "3.2.0":
        kilograms = parcel["weight_kg"]
    else:
        kilograms = parcel["weight_g"] / 1000
    return f"label for {kilograms} kg"


@DBOS.step()
def book_pickup(label: str) -> str:
    return f"pickup of {label}"


@DBOS.workflow()
def ship_parcel(parcel: Parcel) -> str:
    check_address(parcel)
    return book_pickup(buy_label(parcel))


def _ship(number: int) -> Any:
    grams = 250 + 10 * number
    parcel: Parcel = {
        "number": number,
        "postcode": None if number % 20 == 7 else f"LS{number % 9} 4AP",  # as it always was
        "weight_g": grams,
    }
    if number % 5 == 0:
        parcel["weight_kg"] = grams / 1000
    with SetWorkflowID(f"parcel-{number}"):
        return DBOS.start_workflow(ship_parcel, parcel)


def ship_before_the_deployment() -> None:
    run_all(_ship, range(1, 41))


def ship_after_the_deployment() -> None:
    run_all(_ship, range(41, 66))


def ship_where_it_is_not_deployed_yet() -> None:
    run_all(_ship, range(66, 81))


async def seed(upstream: "Upstream") -> None:
    await upstream.run(ship_before_the_deployment, application_version="3.1.0")
    await upstream.run(ship_after_the_deployment, application_version="3.2.0")
    await upstream.run(
        ship_where_it_is_not_deployed_yet, application_version="3.1.0", executor_id="worker-2"
    )


INCIDENT = Incident(
    name="bad_deploy",
    application_name="shipping",
    question="Parcels stopped going out this evening: what broke?",
    seed=seed,
    signs=(
        Sign(
            Call("get_workflow_aggregates", {"group_by": ["application_version", "status"]}),
            (
                Fact("the new version's failures", "3.2.0", "ERROR", "20"),
                Fact("the new version's successes", "3.2.0", "SUCCESS", "5"),
                Fact("the old version's failures", "3.1.0", "ERROR", "3"),
                Fact("the old version's successes", "3.1.0", "SUCCESS", "52"),
            ),
        ),
        Sign(
            Call("list_steps", {"workflow_id": "parcel-64"}),
            (Fact("the failed step", "2", "buy_label", "weight_kg"),),
        ),
    ),
    first_call=Call("list_failures", {"since": "-1h"}),
    verdict=Verdict(
        facts=(
            Fact("where it began", "verdict", "ship_parcel", "buy_label"),
            Fact("the error", "verdict", "'weight_kg'"),
            Fact("that version 3.2.0 sets it apart", "verdict", "3.2.0", "19 of 19"),
            Fact("to fork in the version that went well", "fork_workflow", "3.1.0"),
        ),
        forbidden=(
            Fact("that it began in check_address", "verdict", "check_address"),
            Fact("that version 3.1.0 is to blame", "verdict", "3.1.0"),
        ),
    ),
)
