"""Whether an agent finds the cause of each incident, with how many calls and bytes: `just evals`.

Every incident happens for real, in a temporary folder, and is mirrored; then an in-memory client
asks the MCP server over that mirror, as `evals.agent` does. It needs no model.
"""

import argparse
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import anyio
from mcp import Client
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Toolset
from evals.agent import Agent, Answer, MissingToolError
from evals.incident import Incident
from evals.incidents import INCIDENTS
from evals.upstream import IncidentError, Upstream, open_upstream

MOST_CALLS = 3
MOST_BYTES = 8 * 1024
"""Of all answers together."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


@dataclass
class Outcome:
    """What came of one incident; right where there is no fault."""

    incident: Incident
    answers: list[Answer] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def bytes_read(self) -> int:
        return sum(answer.size for answer in self.answers)


async def evaluate(incident: Incident, folder: Path) -> Outcome:
    """Let it happen in an empty folder, and ask about it."""
    outcome = Outcome(incident)
    began_at = perf_counter()
    async with open_upstream(folder, incident.application_name) as upstream:
        try:
            await incident.seed(upstream)
            await upstream.sync()
            outcome.faults += await missing_signs(incident, upstream)
            if not outcome.faults:
                async with asking(upstream) as agent:
                    outcome.answers = agent.answers
                    await agent.investigate(incident)
                outcome.faults += judge(incident, outcome.answers)
        except IncidentError as error:
            outcome.faults.append(f"did not happen: {error}")
        except MissingToolError as error:
            outcome.faults.append(f"{error}: tool not there")
    outcome.seconds = perf_counter() - began_at
    return outcome


async def missing_signs(incident: Incident, upstream: Upstream) -> list[str]:
    """What the mirror should show of the planted cause, and does not."""
    missing = []
    async with asking(upstream, every_tool=True) as agent:
        for sign in incident.signs:
            text = await agent.ask(sign.call)
            missing += [
                f"was not planted: {sign.call.tool} does not show {fact.meaning}"
                for fact in sign.facts
                if not fact.is_in(text)
            ]
    return missing


def judge(incident: Incident, answers: Sequence[Answer]) -> list[str]:
    """What is wrong with what an agent has read."""
    faults = [f"{each.call.tool} failed: {each.text}" for each in answers if each.is_error]
    faults += incident.verdict.faults_of("\n".join(answer.text for answer in answers))
    read = sum(answer.size for answer in answers)
    if len(answers) > MOST_CALLS:
        faults.append(f"took {len(answers)} calls")
    if read > MOST_BYTES:
        faults.append(f"took {read} bytes")
    return faults


@asynccontextmanager
async def asking(upstream: Upstream, *, every_tool: bool = False) -> AsyncIterator[Agent]:
    settings = upstream.settings
    if every_tool:
        settings = settings.model_copy(update={"toolsets": frozenset(Toolset)})
    server = build_server(settings, transport=upstream.transport)
    failure = None
    async with Client(server) as client:
        try:
            yield Agent(client, upstream.application_name)
        except MissingToolError as error:
            failure = error  # the client would wrap it into a group
    if failure is not None:
        raise failure


async def run(incidents: Sequence[Incident], *, show: bool) -> list[Outcome]:
    outcomes = []
    for incident in incidents:
        with (
            tempfile.TemporaryDirectory(prefix=f"{incident.name}-") as folder,
            out.status(f"{incident.name}: {incident.question}"),
        ):
            outcome = await evaluate(incident, Path(folder))
        outcomes.append(outcome)
        if show:
            print_answers(outcome)
    return outcomes


def print_answers(outcome: Outcome) -> None:
    out.rule(outcome.incident.name)
    out.print(f"[bold]{escape(outcome.incident.question)}[/bold]")
    for answer in outcome.answers:
        given = ", ".join(f"{name}={value!r}" for name, value in answer.call.arguments.items())
        out.print(f"\n[cyan]> {answer.call.tool}({escape(given)})[/cyan] [dim]{answer.size} bytes")
        out.print(answer.text, markup=False, soft_wrap=True)


def table_of(outcomes: Sequence[Outcome]) -> Table:
    right = sum(not outcome.faults for outcome in outcomes)
    table = Table(title=f"{right} of {len(outcomes)} right", title_justify="left")
    table.add_column("incident", no_wrap=True)
    for name in ("calls", "bytes", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for outcome in outcomes:
        wrong = "\n".join(escape(fault) for fault in outcome.faults)
        table.add_row(
            outcome.incident.name,
            str(len(outcome.answers)),
            f"{outcome.bytes_read:,}",
            f"{outcome.seconds:.1f}",
            f"[red]wrong[/red]\n{wrong}" if outcome.faults else "[green]right[/green]",
        )
    return table


def main() -> None:
    by_name = {incident.name: incident for incident in INCIDENTS}
    parser = argparse.ArgumentParser(prog="evals", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(by_name)}")
    parser.add_argument("--show", action="store_true", help="all answers in full")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - by_name.keys())
    if unknown:
        parser.error(f"no such incident: {', '.join(unknown)}")
    chosen = [by_name[name] for name in options.names] or list(INCIDENTS)
    outcomes = anyio.run(lambda: run(chosen, show=options.show))
    out.print(table_of(outcomes))
    sys.exit(any(outcome.faults for outcome in outcomes))


if __name__ == "__main__":
    main()
