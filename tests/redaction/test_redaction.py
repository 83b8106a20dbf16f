"""What is secret is taken out, what explains is left."""

import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dbos_mcp.redaction import Redactor

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
SECRETS = {
    f"401 for {JWT} at once": JWT,
    f"job-{JWT}": JWT,
    "key dbos_aB3dE5fG7hI9jK1lM3nO refused": "dbos_aB3dE5fG7hI9jK1lM3nO",
    "AKIAIOSFODNN7EXAMPLE": "AKIAIOSFODNN7EXAMPLE",
    "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY": "wJalrXUtnFEMI",
    "remote: ghp_abcdefghijklmnopqrstuvwxyz0123456789": "ghp_",
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz": "github_pat_",
    "glpat-abcdefghij0123456789": "glpat-",
    "xoxb-123456789012-abcdefghijkl": "xoxb-",
    "POST https://hooks.slack.com/services/T0000/B0000/abcdefgh": "abcdefgh",
    "stripe sk_live_abcdefghij0123456789": "sk_live_",
    "sk-proj-abcdefghijklmnopqrstuvwx": "sk-proj",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv": "AIza",
    "Authorization: Bearer abcdefgh12345678": "abcdefgh12345678",
    "headers={'Authorization': 'Basic dXNlcjpodW50ZXIy'}": "dXNlcjpodW50ZXIy",
    "Cookie: session=canary1; theme=canary2": "canary",
    "postgresql://shop:hunter2@db:5432/shop is away": "hunter2",
    "redis://:hun/ter2@cache/0": "hun/ter2",
    "postgres://shop:p@ss@db/shop": "p@ss",
    "password=hunter2&user=alice": "hunter2",
    '{"api_key": "hunter2", "amount": 17}': "hunter2",
    r"{\"client_secret\": \"hunter2\"}": "hunter2",
    "{'password': 'hunter2', 'amount': 17}": "hunter2",
    "Settings(password='hunter2', retries=3)": "hunter2",
    "('password', 'hunter2')": "hunter2",
    "DB_PASSWORD=hunter2": "hunter2",
    "dbPassword: hunter2": "hunter2",
    "?sig=abcdefgh12345678&se=2026": "abcdefgh12345678",
    "accessToken => abcdefgh12345678": "abcdefgh12345678",
    "<password>hunter2</password>": "hunter2",
    "password%3Dhunter2": "hunter2",
    "psql --db-password hunter2 shop": "hunter2",
    r'{"body": "{\"auth\": \"{\\\"password\\\": \\\"hunter2\\\"}\"}"}': "hunter2",
    r"{\u0022password\u0022:\u0022hunter2\u0022}": "hunter2",
    r"password\u003dhunter2": "hunter2",
    r"https:\/\/shop:hunter2@host\/path": "hunter2",
    "url=https%3A%2F%2Fshop%3Ahunter2%40host": "hunter2",
    "DB_PASS=hunter2": "hunter2",
    "{'passwords': ['harmless', 'hunter2']}": "hunter2",
    "{'credentials': {'user': {'name': 'hunter2'}, 'pin': 'hunter2'}}": "hunter2",
    '{"access_token": "hunter"}': "hunter",
    '{"token": "abcdefghijklmnopqrstuv"}': "abcdefgh",
    "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----": "hunter2",
    "-----BEGIN PRIVATE KEY-----\\nhunter2, and cut off": "hunter2",
}
HARMLESS = [
    "KeyError: 'BT'",
    "Unexpected token: '}' at 17",
    "token expired",
    "Basic authentication failed",
    "max_tokens=4096",
    "tokens: 12",
    "secretary: Bob",
    "password_reset_required: yes",
    "password: null",
    "http://host:8080/path?email=a@b.example",
    "order-1005-5-4 of 0ba5e1d2-7c1f-4f6e-9f8e-0d1c2b3a4f5e on _dbos_internal_queue",
    "ValueError: could not convert string to float: '170,00'",
    "passed: 3, bypass=2, compass: north",
    "https://host:8080/a/b@c",
    "key: value, sort_key=created_at",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_becomes_a_mark(text: str) -> None:
    redactor = Redactor()
    redacted = redactor.text(text)
    assert SECRETS[text] not in redacted
    assert "[redacted:" in redacted
    assert redactor.found.total() >= 1


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_is_left_as_it_is(text: str) -> None:
    redactor = Redactor()
    assert redactor.text(text) == text
    assert not redactor.found


def test_what_stands_beside_a_secret_stays() -> None:
    text = "{'password': 'hunter2', 'amount': 17}"
    assert Redactor().text(text) == "{'password': '[redacted:password]', 'amount': 17}"


def test_ids_with_secrets_stay_apart_and_stay_the_same() -> None:
    redactor = Redactor()
    one, other = (f"job-sk_live_{c * 20}" for c in "ab")
    assert redactor.reference(one) == redactor.reference(one)
    assert redactor.reference(one) != redactor.reference(other)
    assert Redactor().reference(one) != redactor.reference(one)  # so that nobody can try passwords


def test_names_in_json_say_what_is_secret_of_any_type() -> None:
    value = {
        **{"pin": 7, "password": 1234, "deep": [{"apiKey": "x1"}], "amount": 17},
        **{"passwords": ["a", {"b": 2}], "secrets": {"x": "y", "none": None}},
    }
    assert Redactor().value(value) == {
        "pin": 7,
        "password": "[redacted:password]",
        "deep": [{"apiKey": "[redacted:password]"}],
        "amount": 17,
        "passwords": ["[redacted:password]", {"b": "[redacted:password]"}],
        "secrets": {"x": "[redacted:password]", "none": None},
    }


def test_users_are_marked_where_that_is_wanted() -> None:
    plain, strict = Redactor(), Redactor(["alice"])
    text = "alice <alice@example.org> has malice"
    assert "a%40example.org" not in strict.text("?mail=a%40example.org&n=1")
    assert plain.text(text) == text
    assert plain.user("alice") == "alice"
    mark = strict.user("alice")
    assert mark.startswith("[redacted:user-")
    assert strict.text(text) == f"{mark} <[redacted:email]> has malice"


PIECES = st.one_of(
    st.text(max_size=30),
    st.text(alphabet=string.ascii_letters + string.digits + "-_./:=+@'\"\\ [],{}", max_size=30),
    st.sampled_from(
        [*SECRETS, *HARMLESS, "password=", '"token": "', "://a:", "eyJ", "[redacted:jwt]",
         "[redacted:", "Bearer ", "-----BEGIN PRIVATE KEY-----", "--token ", "@", "alice"]
    ),
)  # fmt: skip


@given(st.lists(PIECES, max_size=8).map("".join), st.booleans())
@example("password=[redacted:jwt]abc", False)
@example("\ud800", True)
def test_whatever_the_text_it_ends_and_a_second_time_changes_nothing(
    text: str, strict: bool
) -> None:
    redactor = Redactor(["alice"] if strict else None)
    once = redactor.text(text)
    assert redactor.text(once) == once
    named = redactor.reference(text)
    assert redactor.reference(named) == named
