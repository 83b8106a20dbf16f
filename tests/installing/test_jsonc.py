"""JSON with comments: one place is changed, and not a character of the rest."""

import json

import pytest
from hypothesis import given

from dbos_mcp.errors import InstallError
from dbos_mcp.installing import jsonc
from tests.installing.documents import Pairs, documents, parts

PATH = ("mcpServers", "dbos")
SERVER = {"command": "/usr/bin/dbos-mcp", "args": ["--read-only"], "env": {"é": '"\\'}}


def is_subsequence(of: str, text: str) -> bool:
    characters = iter(text)
    return all(each in characters for each in of)


def others_in(value: Pairs) -> tuple[Pairs, Pairs]:
    return value.without("mcpServers"), value.get("mcpServers").without("dbos")


@given(documents())
def test_all_else_stays_as_it_was_comments_and_order_included(text: str) -> None:
    before, comments = parts(text)
    changed = jsonc.with_value(text, PATH, SERVER)
    after, comments_after = parts(changed)
    assert others_in(after) == others_in(before)
    assert [name for name, _ in after if name in dict(before)] == [name for name, _ in before]
    assert jsonc.get(changed, PATH) == SERVER
    if "dbos" not in dict(before.get("mcpServers")):
        assert comments_after == comments
        assert is_subsequence(text, changed)
        assert len(changed) - len(text) < 400
        try:
            back, comments_back = parts(jsonc.without(changed, PATH))
        except InstallError:  # a comment is between it and its comma
            return
        assert others_in(back) == others_in(before)
        assert back.get("mcpServers") == before.get("mcpServers")
        assert comments_back == comments


@given(documents())
def test_what_is_taken_out_takes_nothing_with_it(text: str) -> None:
    before, _ = parts(text)
    try:
        changed = jsonc.without(text, PATH)
    except InstallError as error:
        assert "without changing more" in str(error)
        return
    after, _ = parts(changed)
    assert others_in(after) == others_in(before)
    assert jsonc.get(changed, PATH) is None


@given(documents())
def test_what_is_read_is_what_another_reader_reads(text: str) -> None:
    value, comments = parts(text)
    assert jsonc.get(text, ()) == json.loads(json.dumps(_plain(value)))
    assert [comment for _, comment in jsonc.parse(text).comments] == comments


def _plain(value: object) -> object:
    if isinstance(value, Pairs):
        return {name: _plain(item) for name, item in value}
    return [_plain(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "s": {\n    "d": 1\n  }\n}\n'),
        ("\n", '\n{\n  "s": {\n    "d": 1\n  }\n}\n'),
        ("// none yet", '// none yet\n{\n  "s": {\n    "d": 1\n  }\n}\n'),
        ("{}\n", '{\n  "s": {\n    "d": 1\n  }\n}\n'),
        ('{"a": 1}', '{"a": 1, "s": {"d": 1}}'),
        ('{\n\t"a": 1\n}\n', '{\n\t"a": 1,\n\t"s": {\n\t\t"d": 1\n\t}\n}\n'),
        ('{\r\n    "s": {}\r\n}', '{\r\n    "s": {\r\n        "d": 1\r\n    }\r\n}'),
        ('{\n "s": {\n  "a": 1, // x\n },\n}', '{\n "s": {\n  "a": 1, // x\n  "d": 1,\n },\n}'),
        ('{\n "s": {\n  "a": 1 // x\n }\n}', '{\n "s": {\n  "a": 1, // x\n  "d": 1\n }\n}'),
        ('{\n  "s": {\n    // none\n  }\n}', '{\n  "s": {\n    // none\n    "d": 1\n  }\n}'),
        ('{\n  "s": {"d": 0}\n}', '{\n  "s": {"d": 1}\n}'),
        ('{\n  "s": {"a": 1}\n}', '{\n  "s": {"a": 1, "d": 1}\n}'),
    ],
)  # fmt: skip
def test_it_is_written_in_the_style_of_the_file(before: str, after: str) -> None:
    assert jsonc.with_value(before, ("s", "d"), 1) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{\n  "s": {\n    "a": 1,\n    "d": 1\n  }\n}', '{\n  "s": {\n    "a": 1\n  }\n}'),
        ('{\n  "s": {\n    "d": 1,\n    "a": 1\n  }\n}', '{\n  "s": {\n    "a": 1\n  }\n}'),
        ('{"s": {"a": 1, "d": 1}}', '{"s": {"a": 1 }}'),
        ('{"s": {"d": 1}}', '{"s": {}}'),
        ('{"a": 1}', '{"a": 1}'),
    ],
)
def test_it_is_taken_out_with_its_line(before: str, after: str) -> None:
    assert jsonc.without(before, ("s", "d")) == after


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n  "a": 1\n  "b": 2\n}', "line 3, column 3: a comma or } was expected"),
        ('{\n  "s": ', "line 2, column 8: a value was expected"),
        ('{"a": 1} x', "line 1, column 10: there is more behind the end"),
        ("{'a': 1}", "line 1, column 2: a text in double quotes was expected"),
        ('{"a" 1}', "line 1, column 6: a colon was expected"),
        ('{"a": "\n"}', "line 1, column 7: a text in double quotes was expected"),
        ('{"a": 01}', "line 1, column 8: a comma or } was expected"),
        ("{,}", "line 1, column 2: a text in double quotes was expected"),
        ('{"s": 1}', "line 1, column 7: an object was expected"),
        ("[]", "line 1, column 1: an object was expected"),
        ('{"s": {}, "s": {}}', 'line 1, column 11: "s" is there already'),
        ("/* open", "line 1, column 1: a value was expected"),
        ("[" * 5000, "it is nested too deep"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(InstallError) as raised:
        jsonc.with_value(text, ("s", "d"), 1)
    assert said in str(raised.value)


def test_an_item_is_added_to_a_list_or_the_list_is_made() -> None:
    assert jsonc.with_item('{\n  "i": [1, 2]\n}', ("i",), 3) == '{\n  "i": [1, 2, 3]\n}'
    assert (
        jsonc.with_item('{\n  "i": [\n    1\n  ]\n}', ("i",), 3)
        == '{\n  "i": [\n    1,\n    3\n  ]\n}'
    )
    assert json.loads(jsonc.with_item('{"a": 1}', ("i",), 3)) == {"a": 1, "i": [3]}
    with pytest.raises(InstallError, match="line 1, column 7: a list was expected"):
        jsonc.with_item('{"i": {}}', ("i",), 3)
