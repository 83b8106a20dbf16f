"""The code was mended and the failures forked, but from behind the step that had been wrong."""

from typing import TYPE_CHECKING, Any

from dbos import DBOS, SetWorkflowID

from evals.application import run_all, settle
from evals.incident import Call, Fact, Incident, Sign, Verdict

if TYPE_CHECKING:
    from evals.upstream import Upstream

STATEMENTS = 6
FAILED = ("statement-1", "statement-3", "statement-5")


@DBOS.step()
def read_statement(number: int) -> str:
    return f"Total: 1.{200 + number},50" if number % 2 else f"Total: {200 + number}.50"


@DBOS.step()
def extract_total(text: str) -> str:
    total = text.removeprefix("Total: ")
    if DBOS.application_version == "2.0.0" and "," in total:
        return total.replace(".", "").replace(",", ".")
    return total


@DBOS.step()
def book_total(total: str) -> float:
    return float(total)


@DBOS.workflow()
def import_statement(number: int) -> float:
    return book_total(extract_total(read_statement(number)))


def _import(number: int) -> Any:
    with SetWorkflowID(f"statement-{number}"):
        return DBOS.start_workflow(import_statement, number)


def import_statements() -> None:
    run_all(_import, range(1, 1 + STATEMENTS))


def run_the_forks() -> None:
    forks = [
        workflow
        for workflow in DBOS.list_workflows(name="import_statement")
        if workflow.forked_from is not None
    ]
    for fork in forks:
        settle(DBOS.retrieve_workflow(fork.workflow_id))
    run_all(_import, range(11, 17))


async def seed(upstream: "Upstream") -> None:
    from dbos_mcp.conductor.models import BulkForkFromFailureRequest

    await upstream.run(import_statements)
    await upstream.sync()
    async with upstream.live() as live:
        await live.client.bulk_fork_from_failure(
            upstream.application_name,
            BulkForkFromFailureRequest(
                workflow_ids=FAILED,
                from_last_failure=True,
                application_version="2.0.0",
            ),
        )
    await upstream.run(run_the_forks, application_version="2.0.0")


_COLUMNS = ["workflow_id", "status", "application_version", "error"]

INCIDENT = Incident(
    name="bad_fork",
    application_name="ledger",
    question="The fix is out and I forked the failed imports, yet they fail again: why?",
    seed=seed,
    signs=(
        Sign(
            Call("list_workflows", {"forked_from": "statement-5", "columns": _COLUMNS}),
            (Fact("the fork", "ERROR", "2.0.0", "'1.205,50'"),),
        ),
        Sign(
            Call("list_steps", {"workflow_id": "statement-5"}),
            (Fact("the failed step", "3", "book_total"), Fact("step 2", "2", "extract_total")),
        ),
        Sign(
            Call("list_workflows", {"workflow_id": "statement-15", "columns": _COLUMNS}),
            (Fact("that the new code is right", "statement-15", "SUCCESS", "2.0.0"),),
        ),
    ),
    first_call=Call("list_failures", {"since": "-1h"}),
    verdict=Verdict(
        facts=(
            Fact("where it began", "verdict", "import_statement", "book_total"),
            Fact(
                "what it is a fork of", "verdict", "fork of", "statement-1|statement-3|statement-5"
            ),
            Fact("which output was used again", "verdict", "replays", "extract_total"),
            Fact("from where a fork would mend it", "fork_workflow", "start_step=2"),
        ),
        forbidden=(
            Fact("that version 2.0.0 is to blame", "verdict", "2.0.0"),
            Fact("to do the same once more", "fork_workflow", "start_step=3"),
        ),
    ),
)
