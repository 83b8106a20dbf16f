"""dbosctl's profiles: read as dbosctl reads them, and never more than the file says."""

import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dbos_mcp.errors import UsageError
from dbos_mcp.profiles import Oidc, Profile, Profiles, config_folder, load_profiles

THREE = """
current: managed
profiles:
  managed: {domain: cloud.dbos.dev, org: my_org, app: my-app}
  sso:
    auth: bearer
    url: "https://conductor.example.com"
    oidc: {issuer: "https://login.example.com", audience: aud, clientID: public}
  plain: {auth: none, url: "http://localhost:8090"}
"""

Load = Callable[[str | bytes], Profiles]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def write_and_load(content: str | bytes) -> Profiles:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / "config.yaml").write_bytes(data)
        return load_profiles(tmp_path)

    return write_and_load


def test_the_profiles_are_those_of_the_file(load: Load, tmp_path: Path) -> None:
    assert load(THREE) == Profiles(
        tmp_path,
        "managed",
        {
            "managed": Profile(domain="cloud.dbos.dev", org="my_org"),
            "sso": Profile(
                auth="bearer",
                url="https://conductor.example.com",
                oidc=Oidc("https://login.example.com", "public", "aud"),
            ),
            "plain": Profile(auth="none", url="http://localhost:8090"),
        },
    )


@pytest.mark.parametrize("content", ["", "# none yet\n", "profiles:\n", "current: ''", "{}", "~"])
def test_a_file_that_says_nothing_has_no_profiles(load: Load, tmp_path: Path, content: str) -> None:
    assert load_profiles(tmp_path) == Profiles(tmp_path, None, {})
    assert load(content) == Profiles(tmp_path, None, {})


def test_what_is_blank_or_null_is_absent_and_keys_new_to_us_are_ignored(load: Load) -> None:
    profiles = load(
        "profiles:\n"
        "  a: {domain: '', url: ~, auth: '', org: null, oidc: , new: {x: [1, ~]}, 1: 2, ~: 3}\n"
        "  b:\n"
        "  ~: {org: nameless}\n"
        "  c: {org: 'null', url: ' '}\n"
        "new: [1]\n"
    )
    assert profiles.profiles == {
        "a": Profile(), "b": Profile(), "c": Profile(org="null", url=" ")
    }  # fmt: skip


@pytest.mark.parametrize(
    "word",
    ["no", "on", "Yes", "y", "true", "False", "0123", "0x1F", "123", "1_000", "1e3", ".inf",
     "2026-01-01", "12:30:45", "=", "a b", "ünï-😀"],
)  # fmt: skip
def test_a_word_is_that_word_wherever_it_stands(load: Load, word: str) -> None:
    profiles = load(f"current: {word}\nprofiles:\n  {word}: {{org: {word}}}\n")
    assert (profiles.current, dict(profiles.profiles)) == (word, {word: Profile(org=word)})


def test_only_the_first_document_is_read_and_a_byte_order_mark_is_passed_over(load: Load) -> None:
    profiles = load("\ufeff" + THREE + "---\n{ not: yaml")
    assert list(profiles.profiles) == ["managed", "sso", "plain"]


NOT_A_FILE_OF_PROFILES = {
    "not YAML": ("a: b\ncanary: [", 2),
    "a tab": ("profiles:\n\tcanary: {}", 2),
    "an alias of nothing": ("\n\nprofiles: *canary", 3),
    "NUL": ("a: b\nprofiles: canary\0", 2),
    "a control character": ("a: b\r\nb: c\r\nprofiles: canary\x07", 3),
    "not UTF-8": (b"a: b\nprofiles: canary\xff", 2),
    "UTF-16": ("profiles: canary".encode("utf-16"), 1),
    "an escape of no character": ('\ncurrent: "canary\\UFFFFFFFF"', 2),
    "half a character": ('\ncurrent: "canary\\ud800"', 2),
    "a text": ("canary", 1),
    "a list": ("- canary", 1),
    "a list of profiles": ("profiles:\n  - canary", 2),
    "an empty text of profiles": ("profiles: ''", 1),
    "a current mapping": ("current:\n  canary: x", 2),
    "a name that is a list": ("profiles:\n  ? [canary]\n  : {}", 2),
    "a name twice": ("profiles:\n  canary: {}\n  a: {}\n  'canary': {}", 4),
    "a tag": ("profiles: !!python/object/apply:os.system [canary]", 1),
    "a tagged name": ("profiles:\n  !!python/name:os.canary x: {}", 2),
    "an alias": ("x: &x {a: {org: canary}}\nprofiles: *x", 2),
    "a merge": ("x: &x {a: {org: canary}}\nprofiles:\n  <<: *x", 3),
    "deep": ("profiles: " + "[" * 100_000 + "canary", 1),
    "large": ("canary: " + "x" * 1_000_000, 1),
}


@pytest.mark.parametrize(
    ("content", "line"), NOT_A_FILE_OF_PROFILES.values(), ids=NOT_A_FILE_OF_PROFILES
)
def test_a_file_that_cannot_be_used_is_named_with_the_line_and_without_its_values(
    load: Load, tmp_path: Path, content: str | bytes, line: int
) -> None:
    with pytest.raises(UsageError) as caught:
        load(content)
    error = caught.value
    assert f"{tmp_path / 'config.yaml'} cannot be used: line {line}: " in error.message
    assert error.hint
    assert error.__cause__ is error.__context__ is None
    assert "canary" not in "".join(traceback.format_exception(error))


def test_a_file_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(UsageError, match=r"config\.yaml cannot be read"):
        load_profiles(tmp_path)


DAMAGED = {
    "unknown auth": ("{auth: canary}", "auth: Input should be 'bearer' or 'none'"),
    "a list of issuers": ("{oidc: {issuer: [canary]}}", "oidc.issuer: Input should be"),
    "a list": ("[canary]", "line 3: names"),
    "an empty text": ("''", "line 3: names"),
    "an organization of many": ("{org: [canary]}", "org: "),
    "a key twice": ("{org: canary, org: canary}", "line 3: this name is there already"),
    "a tag": ("{org: !!python/name:canary x}", "line 3: an alias or a tag"),
    "an alias": ("{org: *canary}", "line 3: an alias or a tag"),
    "a merge": ("{<<: *canary}", "line 3: a merge"),
    "half a character": ('{org: "canary\\udc00"}', "line 3: half a character"),
}  # fmt: skip


@pytest.mark.parametrize(("written", "fault"), DAMAGED.values(), ids=DAMAGED)
def test_a_profile_that_cannot_be_used_says_why_and_does_not_spoil_the_others(
    load: Load, tmp_path: Path, written: str, fault: str
) -> None:
    profiles = load(f"profiles:\n  good: {{org: &canary acme}}\n  bad: {written}\n")
    assert profiles.get("good") == Profile(org="acme")
    with pytest.raises(UsageError) as caught:
        profiles.get("bad")
    error = caught.value
    assert f"bad in {tmp_path / 'config.yaml'} cannot be used: {fault}" in error.message
    assert error.__cause__ is error.__context__ is None
    assert "canary" not in "".join(traceback.format_exception(error))


def test_aliases_do_not_multiply(load: Load) -> None:
    lines = ["profiles:", "  p0: &p0 {x: x}"]
    lines += [f"  p{n}: &p{n} [{', '.join([f'*p{n - 1}'] * 9)}]" for n in range(1, 30)]
    profiles = load("\n".join(lines))
    assert list(profiles.profiles) == ["p0"]
    assert len(profiles.damaged) == 29


def test_a_profile_that_does_not_exist_is_told_with_those_that_do(
    load: Load, tmp_path: Path
) -> None:
    profiles = load("current: managad\n" + THREE.replace("current: managed", ""))
    assert profiles.current == "managad"
    with pytest.raises(UsageError) as caught:
        profiles.get(profiles.current)
    assert str(tmp_path / "config.yaml") in caught.value.message
    assert "Did you mean managed?" in caught.value.hint
    assert "managed, sso, plain" in caught.value.hint
    with pytest.raises(UsageError, match="holds no profiles"):
        Profiles(tmp_path, None, {}).get("managed")


def test_names_do_not_reach_a_terminal_as_control_characters(load: Load) -> None:
    with pytest.raises(UsageError) as caught:
        load('profiles: {"\\e[2J\\n": {}}').get("\x1b[2Jx")
    assert str(caught.value).isprintable()


def test_without_a_file_no_yaml_parser_is_loaded(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from dbos_mcp.profiles import load_profiles\n"
        "load_profiles(pathlib.Path(sys.argv[1])); assert 'yaml' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True)


def test_a_url_with_a_password_is_in_no_repr(load: Load) -> None:
    assert "canary" not in repr(load("profiles: {a: {url: 'http://u:canary@one:8090'}}"))


HOME = Path("/home/alice")


@pytest.mark.parametrize(
    ("platform", "environ", "folder"),
    [
        ("linux", {}, HOME / ".config/dbos"),
        ("linux", {"XDG_CONFIG_HOME": ""}, HOME / ".config/dbos"),
        ("linux", {"XDG_CONFIG_HOME": "relative"}, HOME / ".config/dbos"),
        ("linux", {"XDG_CONFIG_HOME": "/etc/alice"}, Path("/etc/alice/dbos")),
        ("darwin", {"XDG_CONFIG_HOME": "/x"}, HOME / "Library/Application Support/dbos"),
        ("win32", {"APPDATA": "/roaming"}, Path("/roaming/dbos")),
        ("win32", {}, HOME / "AppData/Roaming/dbos"),
    ],
)
def test_the_folder_is_dbosctls(platform: str, environ: dict[str, str], folder: Path) -> None:
    assert config_folder(environ, HOME, platform) == folder


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = texts | st.sampled_from(["no", "null", "~", "0123", "<<", "!", "*a", "2026-01-01", "- a"])
one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@one_folder
@given(
    st.dictionaries(words, st.fixed_dictionaries({}, optional={"org": words, "url": words})),
    st.none() | words,
)
def test_what_was_written_as_text_is_read_as_that_text(
    load: Load, written: dict[str, dict[str, str]], current: str | None
) -> None:
    profiles = load(yaml.safe_dump({"current": current, "profiles": written}))
    assert profiles.current == (current or None)
    assert profiles.profiles == {name: Profile.model_validate(p) for name, p in written.items()}
    assert not profiles.damaged


scraps = st.lists(
    st.sampled_from(
        ["profiles", "current", ": ", "\n", "  ", "- ", "? ", "[", "]", "{", "}", ",", "&a", "*a",
         "!!str ", "!<", "!!python/none", "%YAML ", "%TAG ", "---", "...", "'", '"', "\\", "\\x",
         "\\U", "\\ud800", "FFFFFFFF", "|", ">", "#", "~", "<<", "\t", "\r", "\x85", "\u2028"]
    )
    | st.text(max_size=2)
).map(lambda parts: "".join(parts).encode(errors="surrogatepass"))  # fmt: skip


@one_folder
@given(st.binary() | scraps)
@example(b'"\\UFFFFFFFF"')
@example(b"%YAML 1." + b"1" * 5000)
def test_no_bytes_raise_anything_but_a_usage_error(load: Load, content: bytes) -> None:
    try:
        profiles = load(content)
    except UsageError as error:
        assert error.__context__ is None
    else:
        for name in profiles.damaged:
            with pytest.raises(UsageError):
                profiles.get(name)
