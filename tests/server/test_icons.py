"""The icons: shapes that any client can draw, each whole inside its URI."""

import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from mcp import Client
from mcp_types import Icon

from dbos_mcp import __version__
from dbos_mcp.server import icons
from dbos_mcp.server.app import build_server
from dbos_mcp.settings import Settings

DRAWN = {name: icon for name, icon in vars(icons).items() if isinstance(icon, Icon)}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", DRAWN)
def test_an_icon_is_one_shape_inside_its_frame(name: str) -> None:
    prefix, _, encoded = DRAWN[name].src.partition(",")
    assert prefix == "data:image/svg+xml"
    assert re.fullmatch(r"(?:[\w.~:/?\[\]@!$&'()*+,;=-]|%[0-9A-F]{2})+", encoded, re.ASCII)
    svg = ElementTree.fromstring(unquote(encoded))
    (path,) = svg
    assert (svg.tag, path.tag) == (f"{SVG}svg", f"{SVG}path")
    assert svg.attrib == {"viewBox": "0,0,8,8"}
    assert re.fullmatch(r"M[-\d,a-zA-Z]+z|M[-\d,q]+", path.attrib["d"])
    places = corners(path.attrib["d"])
    assert all(0 <= x <= 8 and 0 <= y <= 8 for x, y in places), places
    assert max(x for x, _ in places) - min(x for x, _ in places) >= 4


def corners(drawing: str) -> list[tuple[float, float]]:
    """Where each stroke of a path ends; controls of curves are not in it."""
    x = y = 0.0
    found = []
    numbers_of = {"M": 2, "l": 2, "q": 4, "a": 7, "h": 1, "v": 1, "z": 0}
    for letter, text in re.findall(r"([Mlqahvz])([^a-zA-Z]*)", drawing):
        numbers = [float(number) for number in re.findall(r"-?\d+", text)]
        step = numbers_of[letter]
        for start in range(0, len(numbers), step or 1):
            part = numbers[start : start + step]
            assert len(part) == step
            match letter:
                case "M":
                    x, y = part
                case "h":
                    x += part[0]
                case "v":
                    y += part[0]
                case _:
                    x, y = x + part[-2], y + part[-1]
            found.append((x, y))
    return found


async def test_a_client_sees_which_server_it_is(tmp_path: Path, era: str) -> None:
    settings = Settings(home=tmp_path, offline=True, cache=tmp_path / "none.sqlite")
    async with Client(build_server(settings), mode=era) as client:
        seen = client.server_info
        assert seen is not None
        if era == "auto":  # there, each answer says it, and none has come yet
            await client.list_tools()
            seen = client.server_info
    assert seen is not None
    assert (seen.name, seen.title, seen.version) == ("dbos-mcp", "DBOS workflows", __version__)
    # The newer era repeats all of it in each answer.
    assert (seen.website_url, seen.icons) == (None, None)
