"""docs/architecture.md: its kinds, layers and projections are those of the code."""

import re
import tomllib
from pathlib import Path

from dbos_mcp.store.events import KINDS
from dbos_mcp.store.projections import PROJECTIONS

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_the_page_tells_the_kinds_of_events() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE) == [*KINDS]


def test_the_page_tells_the_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (each["layers"] for each in contracts["contracts"] if each["type"] == "layers")
    assert PAGE.split("\n## Layers\n")[1].split("```")[1].split("\n")[1:-1] == layers


def test_the_page_tells_the_read_models() -> None:
    named = ", ".join(projection.name for projection in PROJECTIONS)
    assert f"one file for each: {named}." in " ".join(PAGE.split())


def test_the_arrows_of_the_diagram_are_between_parts_that_know_each_other() -> None:
    """What asks, writes or reads imports the other; the ends are not ours."""
    diagram = PAGE.split("```mermaid\n")[1].split("```")[0]
    arrows = re.findall(r"^  (\w+)(?:\[.*\])? --> (\w+)$", diagram, flags=re.MULTILINE)
    assert len(arrows) > 10
    for pair in arrows:
        if not set(pair) & {"Conductor", "agent", "person", "file"}:
            assert any(_imports(reader, of) for reader, of in (pair, pair[::-1])), pair


def _imports(reader: str, of: str) -> bool:
    modules = [*(ROOT / "dbos_mcp" / reader).rglob("*.py")]
    assert modules, reader
    return any(f"from dbos_mcp.{of}" in module.read_text() for module in modules)


def test_each_recipe_and_each_name_of_a_list_exists() -> None:
    recipes = {*re.findall(r"^([\w-]+)[^:\n]*:", (ROOT / "justfile").read_text(), re.MULTILINE)}
    named = {*re.findall(r"`just ([\w-]+)", PAGE)}
    assert named and named <= recipes
    sources = "\n".join(path.read_text() for path in (ROOT / "dbos_mcp").rglob("*.py"))
    sources += "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name in {*re.findall(r"`([A-Z_]{4,})`", PAGE)}:
        assert re.search(rf"\b{name}\b", sources), name
