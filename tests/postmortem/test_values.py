"""Values out of the texts that SDKs show: whole, cut, hostile."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbos_mcp.postmortem.values import (
    ELIDED,
    MOST_PATHS,
    MOST_TOKENS,
    Opaque,
    Scalar,
    Tagged,
    arguments,
    paths,
    positions,
    read,
    shape,
    shape_of,
    told,
)


class Currency(Enum):
    EUR = "EUR"


PYTHON = (
    "{'args': (Order(id=1, at=datetime.datetime(2026, 11, 21, 6, 30, tzinfo=datetime.timezone.utc),"
    " amount=Decimal('1.20'), currency=<Currency.EUR: 'EUR'>, lines=[Line(sku='t-1', n=2)],"
    " owner=<__main__.Owner object at 0x7f0011223344>),), 'kwargs': {'note': \"it's\", 'by': None}}"
)
TYPESCRIPT = """[
  {
    id: 'o-1',
    currency: 'EUR',
    items: [ { sku: 't-1', n: 2 }, [Object] ],
    placedAt: 2026-11-21T06:30:00.000Z,
    coupon: undefined,
    cents: 12n,
    pay: [Function: pay],
    tags: Set(2) { 'a', 'b' },
    'ship-to': Address { city: 'Ulm' },
    rest: [ 1, 2, ... 98 more items ],
    note: 'two\\n' +
      'lines'
  }
]"""
GO = '{"id":"o-1","items":[{"sku":"t-1","n":2},{"sku":"t-2","n":1}],"coupon":null,"total":1.5}'
JAVA = '["o-1",{"currency":"EUR","items":[]},3]'


def test_a_python_repr_is_taken_apart_as_far_as_it_goes() -> None:
    found = paths(arguments(read(PYTHON), alone=False), "input")
    assert found == {
        "input[0].id": (1,),
        "input[0].at": ("2026-11-21 06:30",),
        "input[0].amount": ("1.20",),
        "input[0].currency": ("EUR",),
        "input[0].lines.length": (1,),
        "input[0].lines[].sku": ("t-1",),
        "input[0].lines[].n": (2,),
        "input[0].owner": (Opaque("<__main__.Owner object at 0x…>"),),
        "input.note": ("it's",),
        "input.by": (None,),
    }


def test_what_util_inspect_shows_is_taken_apart() -> None:
    assert paths(arguments(read(TYPESCRIPT), alone=True), "input") == {
        "input.id": ("o-1",),
        "input.currency": ("EUR",),
        "input.items.length": (2,),
        "input.items[].sku": ("t-1",),
        "input.items[].n": (2,),
        "input.items[]": (Opaque("[Object]"),),
        "input.placedAt": ("2026-11-21T06:30:00.000Z",),
        "input.coupon": (None,),
        "input.cents": (12,),
        "input.pay": (Opaque("[Function: pay]"),),
        "input.tags.length": (2,),
        "input.tags[]": ("a", "b"),
        "input.ship-to.city": ("Ulm",),
        "input.rest[]": (1, 2),  # how many there are is not known
        "input.note": ("two\nlines",),
    }


def test_json_is_read_as_it_is() -> None:
    assert paths(arguments(read(GO), alone=True), "input") == {
        "input.id": ("o-1",),
        "input.items.length": (2,),
        "input.items[].sku": ("t-1", "t-2"),
        "input.items[].n": (2, 1),
        "input.coupon": (None,),
        "input.total": (1.5,),
    }
    assert paths(arguments(read(JAVA), alone=False), "input") == {
        "input[0]": ("o-1",),
        "input[1].currency": ("EUR",),
        "input[1].items.length": (0,),
        "input[2]": (3,),
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': [1, 2", {"a": [1, 2, ELIDED], "…": ELIDED}),
        ("{'a': 'unclo", {"a": Opaque("'unclo"), "…": ELIDED}),
        ('{"a":', {"a": ELIDED, "…": ELIDED}),
        ("[ 'aaa'... 40 more characters ]", [Opaque("aaa"), ELIDED]),
        ("<ref *1> { a: [Circular *1] }", {"a": Opaque("[Circular *1]")}),
        ("Map(1) { 'a' => 1 }", Tagged("Map(1)", {"a": 1})),
        ("[Object: null prototype] { a: 1 }", {"a": 1}),
        ("UUID('0b0f')", Tagged("UUID", "0b0f")),
        ("datetime.date(2026, 1, 2)", Tagged("datetime.date", "2026-01-02")),
        ("'\\ud83d\\ude00 \\x41 \\'q\\''", "😀 A 'q'"),
        ("set()", Tagged("set", [])),
        ("{'a', 'b'}", ["a", "b"]),
        ("None", None),
        ("-1.5e3", -1500.0),
        ("170,00", Opaque("170,00")),
        ("1.205,50", Opaque("1.205,50")),
        ("courier for order-1 at 395p", Opaque("courier for order-1 at 395p")),
        ("it's", Opaque("it's")),
        (")", Opaque(")")),
        ("", Opaque("")),
        (None, None),
    ],
)
def test_texts_of_all_kinds(text: str | None, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("170,00", "<n>,<n>"),
        ("12,5", "<n>,<n>"),
        ("207.00", "<n>.<n>"),
        ("'207.00'", "'<n>.<n>'"),
        ("-3", "-<n>"),
        ("0", "0"),
        ("0.00", "0"),
        ("", "empty"),
        ("''", "'empty'"),
        (None, "none"),
        ("True", "true"),
        ("nan", "nan"),
        ("sales-eur", "<w>-<w>"),
        ("a1b2c3", "<id>"),
        ("0b0f8f5e-1c7a-4b6e-9d59-6c2f5f0c5a11", "<id>"),
        ("2026-11-21T06:30:00Z", "'<time>'"),
        ("https://example.com/a?b=1", "<url>"),
        ("a@b.example", "<email>"),
        ("[]", "[]"),
        ("[1, 2]", "[<n>]"),
        ("[1, 'a']", "['<w>' | <n>]"),
        ("{'b': 1, 'a': 'x'}", "{a: '<w>', b: <n>}"),
        ("{}", "{}"),
        ("Order(id=1)", "Order({id: <n>})"),
        ("<Order object at 0x7f001122>", "<Order object at 0x…>"),
    ],
)
def test_the_shape_of_a_value_is_its_kind_without_its_data(text: str | None, kind: str) -> None:
    assert shape_of(text) == kind


def test_a_scalar_that_could_be_taken_for_another_is_told_in_quotes() -> None:
    values: list[Scalar] = ["EUR", "12", 12, "", None, "none", True, "True", 1.5, Opaque("x y")]
    assert [told(value) for value in values] == [
        *("EUR", "'12'", "12", "''", "none", "'none'", "true", "'True'", "1.5", "x y")
    ]


def test_paths_are_bounded() -> None:
    assert len(paths(read(json.dumps({f"k{n}": n for n in range(5_000)})))) == MOST_PATHS
    assert paths(read("[" * 30 + "1" + "]" * 30))  # not followed to its end


def test_one_argument_stands_for_itself_only_where_it_always_does() -> None:
    one = read("{'args': ('a',), 'kwargs': {}}")
    assert paths(arguments(one, alone=True), "input") == {"input": ("a",)}
    assert paths(arguments(one, alone=False), "input") == {"input[0]": ("a",)}


plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(max_size=20)
    | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda key: key != "…"), inner,
                      max_size=4),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "{'args': ({'currency': 'EUR'},), 'kwargs': {}}",
        "{'args': ({'currency': 'EUR', 'cut off he",
        '{"json": [{"currency": "EUR"}], "meta": {"values": {}}}',
        '{"positionalArgs": [{"currency": "EUR"}], "namedArgs": {}}',
    ],
)
def test_what_is_around_the_arguments_is_no_part_of_their_paths(text: str) -> None:
    value = read(text)
    assert positions(value) == 1
    assert paths(arguments(value, alone=True), "input")["input.currency"] == ("EUR",)


def test_many_arguments_are_a_list_beside_those_with_names() -> None:
    value = read(f"{{'args': {tuple(range(20))}, 'kwargs': {{'currency': 'EUR'}}}}")
    found = paths(arguments(value, alone=False), "input")
    assert found["input.args.length"] == (20,)
    assert found["input.currency"] == ("EUR",)


@given(plain)
def test_a_repr_is_read_back(value: Any) -> None:
    assert read(repr([value])) == [value]


@given(plain)
def test_json_is_read_back(value: Any) -> None:
    assert read(json.dumps([value])) == [value]


@given(st.text() | st.text(alphabet="()[]{}<>'\"`,:=.\\ \n-0x1aN…"))
def test_no_text_is_too_strange(text: str) -> None:
    value = read(text)
    assert shape(value)
    paths(value)


@pytest.mark.parametrize(
    "part",
    [*"([{<'\"`\\-,:=.a1", "{'a':", "<a", "<a>", "[A", "Map(1", "'\\", "... ", "b'", "1-", "a@b-"],
)
def test_a_hostile_text_is_gone_over_once(part: str) -> None:
    """One that took quadratic time would take this test minutes."""
    value = read(part * (200_000 // len(part)))
    assert len(shape(value)) < 2_000
    assert len(paths(value)) <= MOST_PATHS


def test_no_more_than_so_many_tokens_are_read() -> None:
    value = read("['a'," + "1," * MOST_TOKENS + "]")
    assert isinstance(value, list)
    assert len(value) <= MOST_TOKENS + 1
    assert value[-1] is ELIDED


def test_real_python_objects_are_read_as_they_are_shown() -> None:
    moment = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
    shown = str({"args": (Decimal("1.2"), moment, date(2026, 1, 2), Currency.EUR), "kwargs": {}})
    assert paths(arguments(read(shown), alone=False)) == {
        "[0]": ("1.2",),
        "[1]": ("2026-11-21 06:30",),
        "[2]": ("2026-01-02",),
        "[3]": ("EUR",),
    }
