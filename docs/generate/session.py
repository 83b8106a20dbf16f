"""Records the session that the README shows, as text and as docs/session.svg: `just session`.

The demo runs for real. Of what it prints a few answers are kept, some of their lines left out, and
the rest is written out as it came.
"""

import re
import subprocess
import sys
import textwrap
from html import escape
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "session.svg"
README = ROOT / "README.md"
COMMAND = "uv run --extra local dbos-mcp demo"
COLUMNS = 100
LEFT_OUT = "…"
CHARACTER, LINE, MARGIN = 7.8, 19, 18
"""In pixels, of a font of 13."""

KEPT = {
    "list_failures": ("12 workflows", "group |", "014927a5ac |"),
    "diagnose_workflow": (
        "order-1005:",
        "verdict:",
        "evidence:",
        "- order-1005",
        "- That fork does again",
        "- A fork of",
        "next:",
        "- fork_workflow",
        "As of",
    ),
}
"""Of which tool's answer, the lines that begin so."""

STYLE = """
.ground { fill: #f6f8fa; stroke: #d1d9e0 }
text { font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  fill: #1f2328; white-space: pre }
.typed { font-weight: 700 } .asked { fill: #0550ae } .told { font-weight: 700 }
.aside { fill: #59636e }
@media (prefers-color-scheme: dark) {
  .ground { fill: #151b23; stroke: #3d444d }
  text { fill: #f0f6fc } .asked { fill: #79c0ff } .aside { fill: #9198a1 }
}
"""


class Line(NamedTuple):
    style: str
    text: str


def session_of(said: str) -> list[Line]:
    """The causes while the shop runs, its end, and a diagnosis without it."""
    before, end, after = re.split(r"^(\d+\. The shop goes down.*)$", said, flags=re.MULTILINE)
    lines = [
        f"$ {COMMAND}",
        "",
        *excerpt(before, "list_failures"),
        "",
        end,
        LEFT_OUT,
        "",
        *excerpt(after, "diagnose_workflow"),
    ]
    return [Line(style_of(line), part) for line in lines for part in wrapped(line)]


def excerpt(said: str, tool: str) -> list[str]:
    """Its first answer; whatever is left out leaves a mark."""
    question, *answer = said[said.index(f"> {tool}(") :].split("\n\n")[0].splitlines()
    kept = [question[: question.rindex(")") + 1]]  # sizes and times are the machine's
    for line in answer:
        if line.startswith(KEPT[tool]):
            kept.append(line.split(" Last error: ")[0])
        elif kept[-1] != LEFT_OUT:
            kept.append(LEFT_OUT)
    return kept


def shown_in(readme: str) -> str:
    return readme.split("\n## A session\n")[1].split("\n```\n")[1]


def wrapped(line: str) -> list[str]:
    return textwrap.wrap(
        line,
        COLUMNS,
        subsequent_indent="  " if line.startswith("- ") else "",
        break_long_words=False,
        break_on_hyphens=False,
    ) or [""]


def picture_of(lines: list[Line]) -> str:
    width = round(COLUMNS * CHARACTER + 2 * MARGIN)
    height = len(lines) * LINE + 2 * MARGIN
    rows = [
        f'<text x="{MARGIN}" y="{MARGIN + LINE * number + 14}" class="{line.style}"'
        f' textLength="{len(line.text) * CHARACTER:.1f}" lengthAdjust="spacingAndGlyphs">'
        f"{escape(line.text)}</text>"
        for number, line in enumerate(lines)
        if line.text
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" role="img" aria-label="A session of the demo">',
            f"<style>{STYLE}</style>",
            f'<rect class="ground" width="{width}" height="{height}" rx="8"/>',
            *rows,
            "</svg>\n",
        ]
    )


def style_of(line: str) -> str:
    starts = {r"\$ |\d+\. ": "typed", "> ": "asked", "verdict:|next:": "told", "As of|…": "aside"}
    return next((style for start, style in starts.items() if re.match(start, line)), "said")


def main() -> None:
    demo = [sys.executable, "-m", "dbos_mcp", "demo"]
    said = subprocess.run(demo, capture_output=True, text=True, check=True).stdout
    lines = session_of(said)
    PICTURE.write_text(picture_of(lines))
    readme = README.read_text()
    README.write_text(readme.replace(shown_in(readme), "\n".join(line.text for line in lines)))


if __name__ == "__main__":
    main()
