"""Hundreds of texts with a secret, and hundreds without; and that no text takes long."""

import json
from itertools import chain
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbos_mcp.redaction import Redactor
from dbos_mcp.redaction.shapes import CREDENTIALS, SHAPES, possible_in

HERE = Path(__file__).parent
SECRETS: dict[str, list[tuple[str, str]]] = json.loads((HERE / "secrets.json").read_text())
HARMLESS: dict[str, list[str]] = json.loads((HERE / "harmless.json").read_text())
TEXTS = [text for pairs in SECRETS.values() for text, _ in pairs]


@pytest.mark.parametrize("category", SECRETS)
def test_every_secret_is_taken_out(category: str) -> None:
    missed = [text for text, secret in SECRETS[category] if secret in Redactor().text(text)]
    assert missed == []


@pytest.mark.parametrize("category", HARMLESS)
def test_nothing_is_taken_from_what_is_harmless(category: str) -> None:
    redactor = Redactor()
    changed = {text: redactor.text(text) for text in HARMLESS[category]}
    assert [told for told in changed.items() if told[0] != told[1]] == []


@pytest.mark.parametrize("category", SECRETS)
def test_what_was_redacted_stays_as_it_is(category: str) -> None:
    for text, _ in SECRETS[category]:
        once = Redactor().text(text)
        assert Redactor().text(once) == once == Redactor().text(text)


def test_a_needle_is_in_whatever_its_pattern_finds() -> None:
    """Otherwise the pattern would not be tried."""
    texts = [*TEXTS, *(text.upper() for text in TEXTS), *chain(*HARMLESS.values())]
    for text in texts:
        possible = possible_in(text, text.lower())
        for shape in SHAPES:
            assert shape in possible or not list(shape.find(text)), (shape, text)
        if list(CREDENTIALS.find(text)):
            assert any(needle in text.lower() for needle in CREDENTIALS.needles)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=10),
        st.sampled_from([*TEXTS, *HARMLESS["json"]]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.one_of(
                st.text(max_size=5), st.sampled_from(["password", "name", "value", "tokens"])
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=60)
@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_json_stays_json_of_the_same_form(value: Any, is_ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    redacted = Redactor().text(text)
    assert form(json.loads(redacted)) == form(value)
    assert Redactor().text(redacted) == redacted


def form(value: Any) -> Any:
    """Which containers are in which, and how many are in each."""
    match value:
        case dict():
            return [form(item) for item in value.values()]
        case list():
            return tuple(form(item) for item in value)
    return None


def test_what_is_no_secret_keeps_every_space_and_digit() -> None:
    text = '{ "a": 1.10,\t"a": 1E5, "deep": [ { "password" : "hunter2" } ], "\\u00e9": "\\/" }'
    assert Redactor().text(text) == text.replace("hunter2", "[redacted:password]")


def test_a_depth_that_no_parser_takes_is_looked_through() -> None:
    text = '{"a":' * 5_000 + '{"password": "hunter2"}' + "}" * 5_000
    assert "hunter2" not in Redactor().text(text)


UNITS = [
    *("auth=", "token=", "session:", "curl -u ", "curl ", "Cookie: ", "login a password "),
    *("mysql ", "mysql -p", "auth=('a','", "auth=(", "--token ", "--a-a-a-a-", '{"password": '),
    *('key="password" value="', "password=[", "password={[x]", "password:|\n  ", "password is "),
    *("postgres://a:", "://a:", "%3A%2F%2Fa%3A", "oracle:thin:a/", "sqlplus -a ", "secret=%("),
    *(
        "eyJ",
        "eyJ.",
        "eyJ\n",
        "eyJaaaaaaaaaaaaaaaaaaaaaa\n",
        "İpassword",
        '"password": "',
        "Bearer ",
    ),
    *("-----BEGIN PRIVATE KEY-----", "Private-Lines: 1\n", "MIIEIBAA", "LS0tLS1CRUdJTi", "dbos_"),
    *("b3BlbnNzaC1rZXktdjE ", "M" * 23 + ".", "?key=", "?token=", "identified by '", "SG.", "hf_"),
    *("[redacted:jwt]password=", "[", "[1,", '{"a":', '{"a":"b",', '"', '\\"', "\\", 'name="token'),
]


@pytest.mark.parametrize("unit", UNITS)
def test_four_times_the_text_takes_four_times_as_long(unit: str) -> None:
    """Of the processor's time; a square would be sixteen times."""

    def seconds(length: int) -> float:
        text = (unit * (length // len(unit) + 1))[:length]
        times = []
        for _ in range(2):
            began = process_time()
            Redactor().text(text)
            times.append(process_time() - began)
        return min(times)

    assert seconds(60_000) < 9 * max(seconds(15_000), 0.0005)
