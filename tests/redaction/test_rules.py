"""What somebody says in a file of their own: applied, or refused with the line that is wrong."""

from pathlib import Path

import pytest

from dbos_mcp.errors import UsageError
from dbos_mcp.redaction import Redactor
from dbos_mcp.redaction.rules import Rules, load_rules
from dbos_mcp.runtime import open_runtime, rules_of
from dbos_mcp.settings import Redact, Settings

FILE = r"""
# what is ours
employee = \bE-\d{6}\b
card-holder=holder: (\w+)

names = customer_pin, IBAN
names = Geheimnis
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "patterns.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def redactor(tmp_path: Path) -> Redactor:
    return Redactor(rules=load_rules(written(tmp_path, FILE)))


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("E-123456 is away", "[redacted:employee] is away"),
        ("\ud800é E-123456", "\ud800é [redacted:employee]"),
        ("holder: Alice, 7", "holder: [redacted:card-holder], 7"),
        ('{"customerPin": 1234, "pin": 5}', '{"customerPin": "[redacted:password]", "pin": 5}'),
        (
            "my_iban=DE02 and --customer-pin 77",
            "my_iban=[redacted:password] and --customer-pin [redacted:password]",
        ),
        ("geheimnis: Hase", "geheimnis: [redacted:password]"),
        ("cuiban: 7; password: hunter2", "cuiban: 7; password: [redacted:password]"),
        ("nothing of all this", "nothing of all this"),
    ],
)
def test_own_patterns_and_names_are_redacted(redactor: Redactor, text: str, redacted: str) -> None:
    assert redactor.text(text) == redacted
    assert redactor.text(redacted) == redacted


def test_own_kinds_are_counted(redactor: Redactor) -> None:
    redactor.text("E-123456 E-123457 password=hunter2")
    assert redactor.found == {"employee": 2, "password": 1}
    assert {"employee", "card-holder", "password", "jwt"} <= redactor.kinds


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# fine\n\nemployee = (E", "line 3: missing )"),
        ("a = x\nb = (?=x)", "line 2: invalid perl operator"),
        ("employee E", "line 1: give `kind = expression`"),
        ("employee =", "line 1: give `kind = expression`"),
        ("Employee 7 = x", "line 1: 'Employee 7' is no kind"),
        ("names = a, , b", "line 1: '' is no name"),
        ("names = a|b", "line 1: 'a|b' is no name"),
        ("all = x*", "line 1: this expression finds nothing"),
        ("large = (x{1000}){1000}", "line 1: "),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(UsageError, match=r"DBOS_MCP_REDACT_PATTERNS .*patterns\.txt") as raised:
        load_rules(written(tmp_path, text))
    assert told in str(raised.value)


async def test_a_file_that_cannot_be_read_ends_the_start(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {"HOME": str(tmp_path), "DBOS_MCP_REDACT_PATTERNS": str(tmp_path / "none.txt")}
    )
    with pytest.raises(UsageError, match="No such file"):
        async with open_runtime(settings):
            pass
    (tmp_path / "none.txt").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="no UTF-8"):
        rules_of(settings)


def test_a_pattern_that_would_be_catastrophic_is_not(tmp_path: Path) -> None:
    redactor = Redactor(rules=load_rules(written(tmp_path, "bomb = (a+)+b\\b")))
    assert redactor.text("a" * 20_000 + "!") == "a" * 20_000 + "!"  # this test would never end


def test_settings_say_what_is_taken_out(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert rules_of(Settings.from_env(home)) == Rules()
    off = Settings.from_env(home | {"DBOS_MCP_REDACT": "off"})
    assert off.redact is Redact.OFF
    assert rules_of(off) is None


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"DBOS_MCP_REDACT": "on"}, "DBOS_MCP_REDACT cannot be used"),
        ({"DBOS_MCP_REDACT_PATTERNS": ""}, "name a file"),
        ({"DBOS_MCP_REDACT_PATTERN": "x"}, "did you mean DBOS_MCP_REDACT_PATTERNS"),
        ({"DBOS_MCP_REDACT": "off", "DBOS_MCP_REDACT_PATTERNS": "x"}, "takes nothing out"),
    ],
)
def test_a_slip_ends_the_start(environ: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError) as raised:
        Settings.from_env({"HOME": "/home/alice", **environ})
    assert told in str(raised.value)
