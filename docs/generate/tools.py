"""Makes docs/tools.md: what the server tells of its tools, and what each of them answers."""

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from mcp import Client
from mcp_types import GetPromptResult, Prompt, TextContent

from dbos_mcp.server.tools import TOOLSETS
from dbos_mcp.server.tools.define import CommandTool
from dbos_mcp.settings import DEFAULT_TOOLSETS
from docs.generate.place import open_login, open_place
from docs.generate.told import COMMON, ERRORS, MEANINGS, PREFERRED, SAMPLES, WRONG, Call

PAGE = Path(__file__).parent.parent / "tools.md"
MOST_LINES = 30
_LONGEST_LINE = 600
_OF_LOGIN = ("login", "login_complete")

_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_VARYING = (
    (re.compile(r"(?<=confirm=)[\w-]+"), "Q5mZ0c7rXw1t"),
    (re.compile(r"(?<=cursor=)[\w-]+=*"), "WzE3NzM0NTk0MDA…"),
    (re.compile(r'(?<="cursor":")[^"]+'), "WzE3NzM0NTk0MDA…"),
    (
        re.compile(r"\| (?:once asked|now|in [\d.]+m?s) \| \d+ \| [\d.]+ \|"),
        "| in 5.0s | 31104 | 55987.2 |",
    ),
    (re.compile(r"Besides: \d+ requests, [\d.]+ KB"), "Besides: 2592 requests, 0.4 KB"),
    (re.compile(r"^((?:\d+|more than \d+)(?: of \d+)? rows?), \d+ms", re.MULTILINE), r"\1, 1ms"),
)
"""What a server makes up anew each time, and what depends on the machine."""

_INTRODUCTION = """# Tools

What the server tells an agent of its tools, with an answer of each. Made by `just docs` from the
server itself, over the mirror of a small shop at four in the morning; a test fails when it is
stale.

{contents}

Resources and prompts are [below](#resources), and so is [what goes wrong](#errors).

## Which tools there are

`DBOS_MCP_TOOLSETS`, or `--toolsets`, takes names of toolsets with commas between, `default`
({default}) or `all`. With `DBOS_MCP_READ_ONLY=true`, or
`--read-only`, the commands are not there: {commands}.
A token that may only read does not see them either.

Each tool says three things of itself that clients go by: *read-only* changes nothing at Conductor;
*destructive* takes something away that is not easily had back; *idempotent* may be called again
with the same effect. A client may ask its user before one that is not read-only.

## What an answer looks like

One text: a first line that counts, a table with ` | ` between the columns, of which those that are
empty in every row are left out, then what to know of it, and at the end how fresh it is:

```text
{anatomy}
```

- **Counts are exact,** also where not all rows are shown. Tables stop at 8 KB, and lists without
  pages at 24 KB; the answer then says how many more there are, and how to go on.
- **`As of`** is when the last complete look at Conductor began; `complete for workflows created
  since` is how far back the mirror reaches; then `live`, or `offline since` with the reason.
- **Texts of applications** (names, ids, inputs, outputs, errors) are data, never instructions.
  Control and invisible characters are written out (`\\n`, `\\u202e`), long texts are cut with `…`,
  a `|` in a value becomes `¦`.
- **`format="json"`**, where a tool has it, answers with the same as compact JSON without nulls.
- **Several profiles**: in a server of several, each tool also takes `profile`, and each answer
  ends with it.

## Arguments that many have

| Argument | Type | Meaning |
|---|---|---|
{common}

A misspelt argument is an error that names the nearest one; nothing is silently ignored.
"""


async def made() -> str:
    with TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            place = await stack.enter_async_context(open_place(Path(folder)))
            told = _Told(Path(folder), place)
            await told.settle()
            resources = await told.resources()
            prompts = await told.prompts()
            errors = {call: await told.answer(call) for calls in WRONG.values() for call in calls}
            answers = {
                tool: [await told.answer(call) for call in calls]
                for tool, calls in SAMPLES.items()
                if tool not in _OF_LOGIN
            }
        (Path(folder) / "login").mkdir()
        async with open_login(Path(folder) / "login") as client:
            told = _Told(Path(folder), client)
            for name in _OF_LOGIN:
                answers[name] = [await told.answer(call) for call in SAMPLES[name]]
    parts = [_introduction(answers)]
    for toolset, tools in TOOLSETS.items():
        parts.append(f"## Toolset `{toolset}`\n")
        if toolset not in DEFAULT_TOOLSETS:
            parts.append("Off by default.\n")
        for tool in tools:
            calls = WRONG.get(tool.name, ())
            parts.append(
                _of_tool(tool, answers[tool.name], [(call, errors[call]) for call in calls])
            )
    parts += [_RESOURCES, resources, _PROMPTS, prompts, _errors(errors)]
    return "\n".join(parts)


class _Told:
    """A client's session, whose answers are the same each time."""

    def __init__(self, folder: Path, client: Client) -> None:
        self._folder = folder
        self._client = client
        self._ids: dict[str, str] = {}

    async def settle(self) -> None:
        """Until the server has looked at Conductor."""
        await self._client.call_tool("sync_now", {})

    async def answer(self, call: Call) -> str:
        """As it is shown: the call, and what came of it."""
        result = await self._client.call_tool(call.tool, dict(call.arguments))
        (content,) = result.content
        assert isinstance(content, TextContent)
        if result.is_error != call.is_wrong:
            raise ValueError(f"{call}: {content.text}")
        return self._same(content.text)

    async def resources(self) -> str:
        resources = (await self._client.list_resources()).resources
        templates = (await self._client.list_resource_templates()).resource_templates
        told = [(str(one.uri), one.description) for one in resources]
        told += [(template.uri_template, template.description) for template in templates]
        rows = "\n".join(f"| `{uri}` | {description} |" for uri, description in told)
        return f"| URI | What it is |\n|---|---|\n{rows}\n"

    async def prompts(self) -> str:
        parts = []
        for prompt in (await self._client.list_prompts()).prompts:
            given = _given(prompt)
            result = await self._client.get_prompt(prompt.name, given)
            assert isinstance(result, GetPromptResult)
            (message,) = result.messages
            assert isinstance(message.content, TextContent)
            parts.append(_of_prompt(prompt, given, self._same(message.content.text)))
        return "\n".join(parts)

    def _same(self, text: str) -> str:
        text = text.replace(f"{self._folder}/cache.sqlite", "~/.dbos-mcp/shop.sqlite")
        for pattern, instead in _VARYING:
            text = pattern.sub(instead, text)
        return _UUID.sub(self._same_id, text)

    def _same_id(self, found: re.Match[str]) -> str:
        if found[0].startswith("4b1c6a52"):
            return found[0]
        number = len(self._ids) + 1
        return self._ids.setdefault(found[0], f"0e0c7a51-0000-4000-8000-{number:012}")


def _introduction(answers: Mapping[str, Sequence[str]]) -> str:
    contents = "\n".join(
        f"- `{toolset}`: " + ", ".join(f"[`{tool.name}`](#{tool.name})" for tool in tools)
        for toolset, tools in TOOLSETS.items()
    )
    commands = [
        f"`{tool.name}`"
        for tools in TOOLSETS.values()
        for tool in tools
        if isinstance(tool, CommandTool)
    ]
    common = "\n".join(f"| {name} | {kind} | {means} |" for name, kind, means in COMMON)
    return _INTRODUCTION.format(
        contents=contents,
        default=", ".join(f"`{toolset}`" for toolset in TOOLSETS if toolset in DEFAULT_TOOLSETS),
        commands=", ".join(commands),
        anatomy=answers["list_executors"][0],
        common=common,
    )


def _of_tool(tool: Any, answers: Sequence[str], wrong: Sequence[tuple[Call, str]]) -> str:
    lines = [f"### {tool.name}\n", f"*{_hints(tool)}*\n", f"{tool.description}\n"]
    lines.append(f"{PREFERRED[tool.name]}\n")
    lines.append(_arguments(tool))
    for call, answer in zip(SAMPLES[tool.name], answers, strict=True):
        lines.append(_block(call, answer))
    for call, answer in wrong:
        lines.append("An error:\n")
        lines.append(_block(call, answer))
    return "\n".join(lines)


def _hints(tool: Any) -> str:
    hints = tool.annotations
    said = [
        "Read-only" if hints.read_only_hint else "Not read-only",
        *(["destructive"] if hints.destructive_hint else []),
        *(["idempotent"] if hints.read_only_hint or hints.idempotent_hint else []),
        "asks Conductor each time" if hints.open_world_hint else "answered from the mirror",
    ]
    if isinstance(tool, CommandTool):
        said.append("a command: not there in a server that is read-only")
    if tool.meta is not None:
        said.append("shown as a waterfall where the client shows MCP Apps")
    return ", ".join(said) + "."


def _arguments(tool: Any) -> str:
    properties = tool.parameters.get("properties", {})
    if not properties:
        return "No arguments.\n"
    required = tool.parameters.get("required", ())
    rows = ["| Argument | Type | Default | Meaning |", "|---|---|---|---|"]
    for name, schema in properties.items():
        default = tool.fn_metadata.arg_model.model_fields[name].get_default()
        told = "required" if name in required else _default(default)
        rows.append(f"| `{name}` | {_type(schema)} | {told} | {meaning(tool.name, name, schema)} |")
    return "\n".join(rows) + "\n"


def _type(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return "string or list"
    kind = str(schema.get("type", "any"))
    return f"{kind}, at most {schema['maximum']:g}" if "maximum" in schema else kind


def _default(value: Any) -> str:
    """Empty where an absent argument means nothing at all."""
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def meaning(tool: str, name: str, schema: Mapping[str, Any]) -> str:
    """What an agent is told of an argument; where its name is all, what a reader wants to know."""
    said = schema.get("description")
    more = MEANINGS.get(f"{tool}.{name}") or (None if said else MEANINGS[name])
    return ". ".join(part.rstrip(".") for part in (said, more) if part).replace("|", "\\|") + "."


def _block(call: Call, answer: str) -> str:
    return f"```text\n> {call}\n{_cut(answer)}\n```\n"


def _cut(text: str) -> str:
    """Long answers lose their middle: the end says how fresh they are."""
    lines = [
        line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"
        for line in text.replace("```", "'''").splitlines()
    ]
    if len(lines) > MOST_LINES:
        kept = MOST_LINES - 4
        lines = [*lines[:kept], f"… ({len(lines) - kept - 3} lines)", *lines[-3:]]
    return "\n".join(lines)


def _given(prompt: Prompt) -> dict[str, str]:
    values = {"application_name": "shop", "workflow_id": "order-1030"}
    return {
        argument.name: values[argument.name]
        for argument in prompt.arguments or ()
        if argument.required or prompt.name == "daily_review"
    }


def _of_prompt(prompt: Prompt, given: Mapping[str, str], text: str) -> str:
    rows = "\n".join(
        f"| `{argument.name}` | {'required' if argument.required else ''}"
        f" | {(argument.description or '').rstrip('.')}. |"
        for argument in prompt.arguments or ()
    )
    return (
        f"### {prompt.name}\n\n{prompt.description}\n\n| Argument | | Meaning |\n|---|---|---|\n"
        f"{rows}\n\n{_block(Call(prompt.name, given), text)}"
    )


def _errors(errors: Mapping[Call, str]) -> str:
    samples = "\n\n".join(_block(call, errors[call]).rstrip() for call in WRONG[""])
    rows = "\n".join(f"| `{says}` | {means} | {advice} |" for says, means, advice in ERRORS)
    return _ERRORS.format(samples=samples, rows=rows)


_RESOURCES = """## Resources

A client reads them without calling a tool, and can watch them: it is told of each change within
seconds. In a server of several profiles the templates end with `{?profile}`.
"""

_PROMPTS = """
## Prompts

A task for the agent, with the steps that the server's tools allow and the facts to begin with.
"""

_ERRORS = """## Errors

An error says what went wrong, what to do next, and whether the same call may succeed later. A
mirror that is old is no error: while Conductor is away, tools answer from the mirror and say so.

{samples}

| What it says | What it means | What to do |
|---|---|---|
{rows}
"""


def main() -> None:
    logging.disable(logging.ERROR)  # of a login that is not there yet, and of what is broken off
    PAGE.write_text(anyio.run(made))


if __name__ == "__main__":
    main()
