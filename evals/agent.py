"""Asks as an agent is led to ask, by a rule instead of a model.

The first call is what the question leads to; the second one diagnoses the workflow that the first
answer names; the third is the first ready-made call of the diagnosis, if it only reads.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mcp import Client
from mcp_types import TextContent, Tool

from evals.incident import Call, Incident

DIAGNOSE = "diagnose_workflow"
_ID_COLUMNS = ("workflow_id", "newest")
"""Of the tables that name workflows: the column with an id."""
_CALL = re.compile(r"\b[a-z]\w*\([^()]*\)")


@dataclass(frozen=True)
class Answer:
    call: Call
    text: str
    is_error: bool = False

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.text.encode())


class MissingToolError(Exception):
    """The server has no such tool; its name."""


class Agent:
    """One conversation about one application."""

    def __init__(self, client: Client, application_name: str) -> None:
        self.answers: list[Answer] = []
        self._client = client
        self._application = {"application_name": application_name}

    async def investigate(self, incident: Incident) -> None:
        """Ask at the most three times.

        Raises:
            MissingToolError: a tool is not there.
        """
        first = await self.ask(incident.first_call)
        workflow_id = named_workflow(first)
        if workflow_id is None:
            return
        diagnosis = await self.ask(Call(DIAGNOSE, {"workflow_id": workflow_id}))
        reads = {tool.name for tool in await self._tools() if _only_reads(tool)}
        for call in ready_made_calls(diagnosis):
            if call.tool in reads:
                await self.ask(call)
                return

    async def ask(self, call: Call) -> str:
        """Raises MissingToolError."""
        if call.tool not in {tool.name for tool in await self._tools()}:
            raise MissingToolError(call.tool)
        result = await self._client.call_tool(call.tool, {**self._application, **call.arguments})
        text = "\n".join(part.text for part in result.content if isinstance(part, TextContent))
        self.answers.append(Answer(call, text, bool(result.is_error)))
        return text

    async def _tools(self) -> list[Tool]:
        return (await self._client.list_tools()).tools


def _only_reads(tool: Tool) -> bool:
    return tool.annotations is not None and bool(tool.annotations.read_only_hint)


def named_workflow(text: str) -> str | None:
    """The workflow that an answer leads to: of a ready-made call to diagnose it, else of the first
    row of its table."""
    for call in ready_made_calls(text):
        if call.tool == DIAGNOSE:
            return str(call.arguments["workflow_id"])
    rows = [line.split(" | ") for line in text.splitlines() if " | " in line]
    if len(rows) < 2:
        return None
    first = dict(zip(rows[0], rows[1], strict=False))
    return next((first[column] for column in _ID_COLUMNS if column in first), None)


def ready_made_calls(text: str) -> Iterator[Call]:
    """Such as `list_steps(application_name="shop", workflow_id="order-1", failed_only=True)`."""
    for found in _CALL.findall(text):
        try:
            call = ast.parse(found, mode="eval").body
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            arguments = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
        except (SyntaxError, ValueError):
            continue
        if arguments and not call.args:
            yield Call(call.func.id, arguments)
