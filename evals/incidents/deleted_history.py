"""The failed workflows were deleted upstream in the meantime; only the mirror remembers them."""

from typing import TYPE_CHECKING, Any

from dbos import DBOS, SetWorkflowID

from evals.application import run_all
from evals.incident import Call, Fact, Incident, Sign, Verdict

if TYPE_CHECKING:
    from evals.upstream import Upstream

FAILING = [f"contract-{number}" for number in range(17, 25)]


@DBOS.step()
def fill_template(number: int) -> str:
    return f"contract {number}"


@DBOS.step()
def embed_fonts(text: str) -> str:
    if DBOS.executor_id == "renderer-2":  # its image came without the fonts
        raise FileNotFoundError("/usr/share/fonts/garamond.ttf")
    return text


@DBOS.step()
def sign_contract(text: str) -> str:
    return f"{text}, signed"


@DBOS.workflow()
def render_contract(number: int) -> str:
    return sign_contract(embed_fonts(fill_template(number)))


def _render(number: int) -> Any:
    with SetWorkflowID(f"contract-{number}"):
        return DBOS.start_workflow(render_contract, number)


def render_with_fonts() -> None:
    run_all(_render, range(1, 17))


def render_without_fonts() -> None:
    run_all(_render, range(17, 25))


def delete_what_failed() -> None:
    DBOS.delete_workflows(FAILING)


async def seed(upstream: "Upstream") -> None:
    await upstream.run(render_with_fonts, executor_id="renderer-1")
    await upstream.run(render_without_fonts, executor_id="renderer-2")
    await upstream.sync()
    await upstream.run(delete_what_failed, executor_id="renderer-1")
    async with upstream.live() as live:  # as an audit does, which waits for minutes
        await live.mirror.refresh_workflows(upstream.application_name, FAILING)


_COLUMNS = ["workflow_id", "status", "executor_id", "deleted_at"]

INCIDENT = Incident(
    name="deleted_history",
    application_name="contracts",
    question="Contracts failed this afternoon and the rows are gone now: what was it?",
    seed=seed,
    signs=(
        Sign(
            Call("list_workflows", {"deleted_upstream": True, "columns": _COLUMNS}),
            (
                Fact("that all are gone", "8 of 8"),
                Fact("one", "contract-24", "ERROR", "renderer-2"),
            ),
        ),
        Sign(
            Call("list_steps", {"workflow_id": "contract-24"}),
            (Fact("the failed step", "2", "embed_fonts", "garamond.ttf"),),
        ),
        Sign(
            Call("list_workflows", {"executor_id": "renderer-1", "status": "SUCCESS"}),
            (Fact("what went well", "16 of 16"),),
        ),
    ),
    first_call=Call("list_failures", {"since": "-1h"}),
    verdict=Verdict(
        facts=(
            Fact("where it began", "verdict", "render_contract", "embed_fonts"),
            Fact("the error", "verdict", "garamond.ttf"),
            Fact("that renderer-2 sets it apart", "verdict", "renderer-2", "8 of 8"),
            Fact("that it was deleted", "verdict", "deleted upstream"),
        ),
        forbidden=(
            Fact("that renderer-1 is to blame", "verdict", "renderer-1"),
            Fact("to fork what is gone", "fork_workflow", "start_step"),
        ),
    ),
)
