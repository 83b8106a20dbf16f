"""TOML: one table is changed, and not a character of the rest."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbos_mcp.errors import InstallError
from dbos_mcp.installing import toml

PATH = ("mcp_servers", "dbos")
SERVER = {"command": "/usr/bin/dbos-mcp", "args": ['"', "\\", "é"], "env": {"A": "b", "c d": ""}}

PIECES = (
    '# a comment\nmodel = "gpt" # which\n',
    'notes = """\n[mcp_servers.dbos]\ncommand = "no"\n"""\n',
    "list = [\n  [1],\n[2],\n]\n",
    "\n\n",
)
TABLES = (
    "[profiles.fast]\nmodel = '[x]'\n",
    '# about a\n[mcp_servers.a]\ncommand = "a"\n\n[mcp_servers.a.env]\nX = "1"\n',
    "[[several]]\nn = 1\n[[several]]\nn = 2\n",
    "[mcp_servers]\n",
    '[projects."/home/é [x]"]\ntrusted = true\n',
)
OWN = (
    "",
    '# ours\n[mcp_servers.dbos]\ncommand = "old" # why\n# not\n[mcp_servers.dbos.env]\nA = "1"\n\n',
    '[mcp_servers."dbos"]\ncommand = """\n[profiles.no]\n"""\n',
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, str]:
    """Without a table of ours; and with one."""
    tables = draw(st.permutations(TABLES))[: draw(st.integers(0, 4))]
    before = list(draw(st.permutations(PIECES))[: draw(st.integers(0, 4))])
    place = draw(st.integers(0, len(tables)))
    own = draw(st.sampled_from(OWN))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    without = "".join([*before, *tables])
    with_own = "".join([*before, *tables[:place], own, *tables[place:]])
    return without.replace("\n", end), with_own.replace("\n", end)


def rest(text: str) -> dict[str, Any]:
    values = tomllib.loads(text)
    values.get("mcp_servers", {}).pop("dbos", None)
    return {name: value for name, value in values.items() if value}


@given(documents())
def test_all_else_stays_as_it_was(document: tuple[str, str]) -> None:
    for text in document:
        changed = toml.with_value(text, PATH, SERVER)
        assert toml.get(changed, PATH) == SERVER
        assert rest(changed) == rest(text)
        assert toml.with_value(changed, PATH, SERVER) == changed
        if toml.get(text, PATH) is None:
            assert changed.startswith(text)
        assert ("\r\n" in text) <= ("\n" not in changed.replace("\r\n", ""))
        removed = toml.without(changed, PATH)
        assert toml.get(removed, PATH) is None
        assert rest(removed) == rest(text)
        for comment in ("# a comment", "# which", "# about a", "# ours"):
            assert (comment in text) == (comment in changed) == (comment in removed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = \n", "line 1, column 5: this is no TOML"),
        ('a = "', "the end: this is no TOML"),
        ('mcp_servers = "x"\n', "a table mcp_servers was expected"),
        ('mcp_servers = { dbos = { command = "x" } }\n', "written in a way that is not changed"),
        ('[mcp_servers]\ndbos.command = "x"\n', "written in a way that is not changed"),
        ('mcp_servers = { a = { command = "x" } }\n', "this is no TOML"),
    ],
)
def test_what_cannot_be_changed_is_told_and_stays(text: str, said: str) -> None:
    with pytest.raises(InstallError) as raised:
        toml.with_value(text, PATH, SERVER)
    assert said in str(raised.value)
