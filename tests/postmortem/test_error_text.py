"""Errors that differ in data alone are of one kind, in the words of every SDK."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbos_mcp.postmortem.error_text import (
    LONGEST_MASKED,
    LONGEST_TYPE,
    ErrorText,
    fingerprint,
    kind_of,
)

TYPESCRIPT = {
    "name": "TypeError",
    "message": "Cannot read properties of undefined (reading 'total')",
    "stack": "TypeError: Cannot read properties\n    at charge (/app/dist/pay.js:12:7)",
}


def sdk(**changed: object) -> str:
    return json.dumps({**TYPESCRIPT, **changed})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # Python: str(exception)
        (
            "could not convert string to float: '170,00'",
            "could not convert string to float: <value>",
        ),
        ("supplier 22 closed the connection", "supplier <n> closed the connection"),
        ("'currency'", "'currency'"),
        ("'order-17'", "'order-<n>'"),
        ("17", "<n>"),
        ("", ""),
        (
            "'NoneType' object has no attribute 'total'",
            "'NoneType' object has no attribute 'total'",
        ),
        ("charge() got an unexpected keyword argument 'vat'", None),
        ("name 'rates' is not defined", None),
        ("user 'alice' not found", "user <value> not found"),
        ("'5f0c3f0e-9d0c-4f0e-8a51-0e8b7c1d2e3f'", "'<id>'"),
        ("'anna@example.com'", "'<email>'"),
        # what nobody could unpickle comes as it is stored
        ("gASVNAAAAAAAAACMCGJ1aWx0aW5zlIwMUnVudGltZUVycm9ylJOUjAVubyA3lIWUUpQu", "<data>"),
        ("it isn't there, and 'x' isn't either", "it isn't there, and <value> isn't either"),
        (
            "Client error '404 Not Found' for url 'https://x.test/17'",
            "Client error '404 Not Found' for url <value>",
        ),
        ("[Errno 111] Connection refused", "[Errno 111]: Connection refused"),
        (
            "<Order object at 0x7f1c2a9b> has no customer",
            "<Order object at <address>> has no customer",
        ),
        (
            "DBOS Error 7: Step charge has exceeded its maximum of 3 retries",
            "DBOS Error 7: Step charge has exceeded its maximum of <n> retries",
        ),
        (
            "(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint"
            ' "orders_pkey"\nDETAIL:  Key (id)=(17) already exists.\n'
            "(Background on this error at: https://sqlalche.me/e/20/gkpj)",
            "(psycopg.errors.UniqueViolation) duplicate key value violates unique constraint"
            ' "orders_pkey" DETAIL: Key (id)=(<n>) already exists.',
        ),
        (
            "1 validation error for Order\namount\n  Input should be a valid number"
            " [type=float_parsing, input_value='170,00', input_type=str]\n"
            "    For further information visit https://errors.pydantic.dev/2.11/v/float_parsing",
            "<n> validation error for Order amount Input should be a valid number"
            " [type=float_parsing, input_value=<value>, input_type=str]",
        ),
        ("order 5f0c3f0e-9d0c-4f0e-8a51-0e8b7c1d2e3f is gone", "order <id> is gone"),
        ("wf_8f3acd91 has ended", "wf_<id> has ended"),
        ("no row for ckx92ab1z", "no row for <id>"),
        ("cannot open /var/data/in-17/rates.csv", "cannot open <path>"),
        ("10.0.3.7:5432 timed out after 30.5s", "<address> timed out after <n>s"),
        ("2001:db8::ff00:42:8329 and [::1]:5432 are down", "<address> and <address> are down"),
        ("no rates since 2026-11-20T06:30:05.120Z", "no rates since <time>"),
        ("2026/11/20 06:30:05 no rates", "<time> no rates"),
        ("order-17 is -5.5 or 1.5e-07", "order-<n> is <n> or <n>"),
        ("error: 17 of 20 rows", "error: <n> of <n> rows"),
        (
            "(pymysql.err.IntegrityError) (1062, \"Duplicate entry '17' for key 'PRIMARY'\")",
            "(pymysql.err.IntegrityError) (1062, <value>)",
        ),
        ("anna@example.com bounced", "<email> bounced"),
        # TypeScript: serialize-error
        (sdk(), "TypeError: Cannot read properties of undefined (reading 'total')"),
        (
            sdk(name="Error", code="ECONNREFUSED", message="connect ECONNREFUSED 127.0.0.1:5432"),
            "Error ECONNREFUSED: connect ECONNREFUSED <address>",
        ),
        (sdk()[:115], "TypeError: Cannot read properties of undefined (reading 'total')"),
        (
            json.dumps({"json": {**TYPESCRIPT, "message": "no 7"}, "meta": {"values": ["Error"]}}),
            "TypeError: no <n>",
        ),
        (r'{"message": "no \d"}', r"no \d"),  # no escape of JSON
        ('{"message": "no rate", "cause": ' + "[" * 3900, "no rate"),  # too deep
        ("order \u0661\u0667 is gone", "order <n> is gone"),
        (json.dumps({"status": 500, "order": 17}), '{"status": 500, "order": <n>}'),
        # no JSON, for all its looks
        (r'{"message": "no \x41 17"', r"no \x<n> <n>"),
        (r'{"message": "no \u12"', r"no \u<n>"),
        # Go: Error()
        (
            "charging order 17: dial tcp 10.0.0.9:443: connect: connection refused",
            "charging order <n>: dial tcp <address>: connect: connection refused",
        ),
        (
            'strconv.Atoi: parsing "170,00": invalid syntax',
            "strconv.Atoi: parsing <value>: invalid syntax",
        ),
        # Java: Class: message
        (
            "java.lang.IllegalStateException: order 17 is closed",
            "java.lang.IllegalStateException: order <n> is closed",
        ),
        ("java.lang.NullPointerException", "java.lang.NullPointerException"),
        (
            "java.lang.RuntimeException: broken\n\tat shop.Pay.charge(Pay.java:17)\n\t... 3 more",
            "java.lang.RuntimeException: broken",
        ),
        ("HTTP 503 from 10.1.1.1", "HTTP 503 from <address>"),
        ("exit status 137", "exit status 137"),
    ],
)
def test_an_error_is_of_a_kind(text: str, kind: str | None) -> None:
    told = kind_of(text)
    assert told == (text if kind is None else kind)
    assert kind_of(told) == told  # a kind is of its own kind


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("'currency'", "'price'"),
        ("'A' object has no attribute 'b'", "'A' object has no attribute 'c'"),
        ("HTTP 503 from the bank", "HTTP 404 from the bank"),
        ("HTTP Error 404: gone", "HTTP Error 410: gone"),
        ("Request failed with status code 404", "Request failed with status code 500"),
        ("statusCode: 404, no answer", "statusCode: 500, no answer"),
        ("the bank returned 404", "the bank returned 500"),
        ("responded with 502 for /pay", "responded with 504 for /pay"),
        ("Error 1062 (23000): no", "Error 1213 (40001): no"),
        ('(1062, "a")', '(1213, "a")'),
        (sdk(), sdk(name="RangeError")),
        ("java.lang.IllegalStateException: no", "java.lang.IllegalArgumentException: no"),
        ("[Errno 111] Connection refused", "[Errno 110] Connection timed out"),
    ],
)
def test_errors_of_other_kinds_stay_apart(one: str, other: str) -> None:
    assert kind_of(one) != kind_of(other)


def test_a_type_is_told_where_the_sdk_tells_it() -> None:
    assert ErrorText.read(sdk()).type == "TypeError"
    assert ErrorText.read("ValueError: no").type == "ValueError"
    assert ErrorText.read("no").type is None
    assert ErrorText.read("Charging: no").type is None


@given(
    st.text(max_size=40),
    st.integers(min_value=0),
    st.uuids(),
    st.sampled_from(["{} of {}", "order {} ({}) failed", "'{}' and \"{}\""]),
)
def test_whatever_the_data_is_the_kind_is_the_same(
    word: str, number: int, uuid: object, shape: str
) -> None:
    assert kind_of(shape.format(number, uuid)) == kind_of(shape.format(7, uuid))
    kind_of(word)  # nothing that is written is too odd to be read


PIECES = [
    *"\"'`\\{}[]()<>:;.,/@-_=+%«»\u2018\u2019\n\t\ud800\u202e\x1b\x00",
    *(
        "Error",
        "Error: ",
        "java.lang.E: ",
        "DBOS Error 7: ",
        "[Errno 1] ",
        "HTTP ",
        "status",
        "code ",
    ),
    *("at x", 'File "a", line 1', "Traceback (most recent call last):", "goroutine 1 [", "a", "e"),
    *(
        "0x",
        "17",
        "404",
        "::",
        "10.0.0.1",
        "http://",
        "a@b.c",
        "/a/b",
        "C:\\",
        "0123abcdef",
        "x1y2",
    ),
    *(
        '{"message": "',
        '{"name": "E\\n", "message": "no"}',
        "A" * 200 + "Error: ",
        '{"name": "E", "message": "no"}',
        '{"json": {',
        "\\u12",
        "\\x",
        "<n>",
        " ",
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_a_kind_of_whatever_is_written_is_one_short_line(text: str) -> None:
    kind = kind_of(text)
    assert "\n" not in kind
    assert len(kind) <= LONGEST_TYPE + len(": ") + LONGEST_MASKED


def test_a_text_without_end_is_read_in_part() -> None:
    assert len(kind_of("no " * 400_000)) == LONGEST_MASKED
    assert kind_of("no " * 400_000 + "a") == kind_of("no " * 400_000 + "b")


@pytest.mark.parametrize(
    "text",
    [
        "'" * 4000,
        "{" * 4000,
        "a1" * 2000,
        "1." * 2000,
        "/a" * 2000,
        '"\\' * 2000,
        "at " * 1300,
        "[:" * 2000,
        "[" + ":" * 4000,
        "a." * 2000,
        "0" * 4000,
        "\n" * 4000,
        "«" * 4000,
        '{"a":' + "[" * 4000,
        '{"message": "\\' * 300,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """A pattern that backtracks would take minutes, and the suite's time limit with it."""
    assert len(kind_of(text)) <= LONGEST_MASKED


def test_a_fingerprint_names_a_place_and_a_kind() -> None:
    assert fingerprint("charge", "no money") == fingerprint("charge", "no money")
    names = {
        fingerprint("charge", "no money"),
        fingerprint("charge", "no"),
        fingerprint(None, "charge", "no money"),
        fingerprint("", "no money"),
        fingerprint(None, "no money"),
    }
    assert len(names) == 5
    assert fingerprint("charge", "no money") == "7147bac940"
