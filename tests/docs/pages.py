"""What pages show: their blocks of code, and whether an answer is what a page says it is."""

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
LEFT_OUT = "…"
DIFFERS = {
    r"\d{4}-\d\d-\d\dT[\d:.]+Z": "TIME",
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b": "UUID",
    r"\b\d+(\.\d+)?(ms|s|m)\b": "DURATION",
    r"\b\d+(\.\d+)? (KB|MB)\b": "SIZE",
    r"\(UTC\) \d+": "(UTC) HOUR",
}
"""From run to run."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str

    @property
    def is_call(self) -> bool:
        return self.text.startswith("> ")

    @property
    def call(self) -> tuple[str, dict[str, object]]:
        """The tool and its arguments, of a block that begins with `> tool(name=value)`."""
        (question,) = ast.parse(self._parts[0].removeprefix("> ")).body
        assert isinstance(question, ast.Expr)
        assert isinstance(question.value, ast.Call)
        assert isinstance(question.value.func, ast.Name)
        values = {each.arg or "": ast.literal_eval(each.value) for each in question.value.keywords}
        return question.value.func.id, values

    @property
    def answer(self) -> str:
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str, str]:
        end = self.text.index(")\n") + 1
        return self.text[:end], self.text[end:]


def blocks(page: str, section: str | None = None) -> list[Block]:
    """Of a page of the repository, or of one section of it."""
    text = (ROOT / page).read_text()
    if section is not None:
        text = re.split(r"\n## ", text.split(f"\n## {section}\n")[1])[0]
    return [Block(*found.groups()) for found in FENCE.finditer(text)]


def shell(
    commands: str, folder: Path, environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """As a reader types them there, with `dbos-mcp` and `python` of this environment."""
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return subprocess.run(
        ["/bin/sh", "-eu", "-c", commands],
        cwd=folder,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def not_said(shown: str, answer: str) -> list[str]:
    """What a page shows that the answer does not hold, in this order: nothing, if all is well.

    Line ends do not count, nor does what is another thing in each run; an ellipsis leaves out.
    """
    said, wrong = _alike(answer), []
    for part in filter(None, map(str.strip, _alike(shown).split(LEFT_OUT))):
        _, found, after = said.partition(part)
        if found:
            said = after
        else:
            wrong.append(part)
    return wrong


def _alike(text: str) -> str:
    for pattern, word in DIFFERS.items():
        text = re.sub(pattern, word, text)
    return " ".join(text.split())
