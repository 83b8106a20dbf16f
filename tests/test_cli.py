"""The command line as a person uses it: messages, exit codes, and what goes where."""

import json
import os
import pty
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from dbos_mcp.cli.sync import Journal
from dbos_mcp.errors import UnavailableError
from dbos_mcp.store.migrate import HEAD
from dbos_mcp.sync.leadership import Leadership
from dbos_mcp.sync.visit import ApplicationReport
from tests import command_line
from tests.command_line import Done, command, environment
from tests.store.test_versions import migrated_by_a_newer_version

Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`dbos-mcp …` in an empty home; keyword arguments are variables of its environment."""
    return partial(command_line.run, tmp_path)


@pytest.fixture
def shop_url(shop_database: Path) -> str:
    return f"sqlite:///{shop_database}"


def test_sync_mirrors_once_and_says_what_it_did(run: Run, shop_url: str, tmp_path: Path) -> None:
    done = run("sync", DBOS_SYSTEM_DATABASE_URL=shop_url)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("shop: ")
    cache = Path(second.removeprefix("Cache: "))
    assert cache.parent == tmp_path / ".dbos-mcp"
    with closing(sqlite3.connect(f"file:{cache}?mode=ro", uri=True)) as database:
        assert database.execute("SELECT count(*) FROM workflow").fetchone() == (53,)


@pytest.mark.parametrize(
    ("arguments", "variables", "nearest"),
    [
        (["--toolsets", "core,amdin"], {}, "did you mean admin?"),
        ([], {"DBOS_MCP_TOOLSETS": "synch"}, "did you mean sync?"),
        ([], {"DBOS_MCP_READ_ONLY": "treu"}, "did you mean true?"),
        ([], {"DBOS_MCP_READONLY": "true"}, "did you mean DBOS_MCP_READ_ONLY?"),
    ],
)
def test_no_server_starts_on_a_slip_in_what_limits_it(
    run: Run, arguments: list[str], variables: dict[str, str], nearest: str
) -> None:
    done = run(*arguments, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert nearest in done.stderr


def test_syncs_of_an_unchanged_application_record_no_more_than_steps_that_had_to_wait(
    run: Run, shop_url: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache.sqlite"
    kinds = "SELECT kind, count(*) FROM event GROUP BY kind ORDER BY kind"

    def events_after_a_sync() -> dict[str, int]:
        run("--cache", str(cache), "sync", DBOS_SYSTEM_DATABASE_URL=shop_url)
        with closing(sqlite3.connect(cache)) as database:
            return dict(database.execute(kinds).fetchall())

    first, second = events_after_a_sync(), events_after_a_sync()
    assert first.pop("StepsObserved") <= second.pop("StepsObserved")
    assert first == second


def test_rebuild_gives_rows_equal_to_the_live_ones(run: Run, shop_url: str) -> None:
    run("sync", DBOS_SYSTEM_DATABASE_URL=shop_url)
    rebuilt = run("rebuild", DBOS_SYSTEM_DATABASE_URL=shop_url)
    assert rebuilt.returncode == 0
    assert "workflow: 53 rows, equal to the live ones" in rebuilt.stdout
    assert "DIFFERENT" not in rebuilt.stdout


def test_the_status_is_told_from_the_cache_alone(run: Run, shop_url: str, tmp_path: Path) -> None:
    run("sync", DBOS_SYSTEM_DATABASE_URL=shop_url)
    done = run("status", DBOS_SYSTEM_DATABASE_URL=shop_url)
    assert (done.returncode, done.stderr) == (0, "")
    headline, headings, shop, *_ = done.stdout.splitlines()
    assert headline == "1 application, synced by no process"
    assert headings.startswith("application_name | state | complete_since | lag | ")
    assert shop.startswith("shop | live | ")

    (cache,) = (tmp_path / ".dbos-mcp").glob("*.sqlite")
    told = run("--offline", "--cache", str(cache), "status", "--json")
    assert (told.returncode, told.stderr) == (0, "")
    status = json.loads(told.stdout)
    assert (status["cache"], status["synced_by"]) == (str(cache), "no process")
    (shop,) = status["applications"]
    assert shop["condition"] == "live"
    assert shop["requests"] > 3
    assert shop["as_of"].endswith("Z")
    assert status["conductor"]["requests"] == 1


def test_the_status_of_a_cache_that_is_missing_is_exit_code_4(run: Run, tmp_path: Path) -> None:
    done = run("--cache", str(tmp_path / "none.sqlite"), "status", "--json")
    assert done.returncode == 4
    assert done.stderr.startswith("Error: There is no cache at ")
    assert done.stdout == ""
    assert not (tmp_path / "none.sqlite").exists()


@pytest.mark.e2e
def test_on_a_terminal_watching_shows_a_table_until_it_is_interrupted(
    shop_url: str, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command("sync", "--watch"),
        env=environment(
            tmp_path,
            TERM="xterm",
            COLUMNS="250",
            DBOS_SYSTEM_DATABASE_URL=shop_url,
            DBOS_APP="[red]shop",
        ),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        shown = ""
        try:
            while "synced by this process" not in shown or "[red]shop" not in shown:
                shown += os.read(ours, 4096).decode(errors="replace")
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(OSError):  # EIO: the other end is closed
                while os.read(ours, 4096):
                    pass
            os.close(ours)
        assert process.wait(timeout=30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
    for heading in ("state", "lag", "requests", "steps pending", "seen", "events"):
        assert heading in shown


@pytest.mark.e2e
def test_in_a_log_watching_is_few_lines_and_ends_well_with_sigterm(
    shop_url: str, tmp_path: Path
) -> None:
    with subprocess.Popen(
        command("sync", "--watch"),
        env=environment(tmp_path, DBOS_SYSTEM_DATABASE_URL=shop_url, DBOS_APP="shop"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            first, second = process.stdout.readline(), process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            rest, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert first.startswith("Mirroring into ")
    assert second.startswith("shop: ")
    assert (rest, err, process.returncode) == ("", "", 0)
    (cache,) = (tmp_path / ".dbos-mcp").glob("*.sqlite")
    assert not Leadership(cache).taken()


def test_a_log_is_told_what_changes_and_not_each_look(
    capsys: pytest.CaptureFixture[str],
) -> None:
    journal = Journal()
    away, slow = UnavailableError("It is away.", hint="Wait."), UnavailableError("For 5 s.")
    report, failed = ApplicationReport("a\x1b", 3, 4), ApplicationReport("a\x1b", error=away)
    for outcome in (away, slow, [report], [report], [failed], [failed], [report], [report]):
        journal.tell(outcome)
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        "Error: It is away. Wait.",
        "Error: a\\x1b: It is away. Wait.",
    ]
    assert told.out.splitlines() == [
        "Conductor: all is well again.",
        "a\\x1b: 3 workflows seen, 4 events",
        "a\\x1b: all is well again.",
    ]


@pytest.mark.e2e
def test_watching_ends_when_a_newer_version_has_taken_the_cache_over(
    shop_url: str, tmp_path: Path
) -> None:
    with subprocess.Popen(
        command("sync", "--watch"),
        env=environment(tmp_path, DBOS_SYSTEM_DATABASE_URL=shop_url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            process.stdout.readline()
            (cache,) = (tmp_path / ".dbos-mcp").glob("*.sqlite")
            migrated_by_a_newer_version(cache, readable_from=HEAD)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "newer" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_conductor_that_is_away_is_exit_code_1(run: Run) -> None:
    done = run("sync", DBOS_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Conductor at 127.0.0.1:9 cannot be reached")
    assert "Check DBOS_URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (["sync"], {"DBOS_URL": "ftp://conductor"}, "DBOS_URL cannot be used"),
        (["sync"], {"DBOS_URL": "http://cloud.dbos.dev/conductor"}, "https only"),
        (["sync"], {"DBOS_MCP_HISTORY": "some"}, "DBOS_MCP_HISTORY cannot be used"),
        (["sync"], {"DBOS_MCP_PAYLOADS": "everything"}, "DBOS_MCP_PAYLOADS cannot be used"),
        (["sync"], {"DBOS_TOKEN": "dbos_canary"}, "Set DBOS_ORG"),
        (["demo"], {"DBOS_MCP_LOG_LEVEL": "loud"}, "DBOS_MCP_LOG_LEVEL cannot be used"),
        (["--offline", "sync"], {}, "do not go together"),
        (["no-such-command"], {}, "There is no command no-such-command"),
        (["sync", "--no-such-option"], {}, "has no option --no-such-option"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_what_is_wrong(
    run: Run, arguments: list[str], environ: dict[str, str], message: str
) -> None:
    done = run(*arguments, **environ)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr


def test_a_missing_login_is_exit_code_3(run: Run) -> None:
    done = run("sync")
    assert done.returncode == 3
    assert done.stderr.startswith("Error: Nobody is logged in to Conductor at cloud.dbos.dev.")


def test_a_damaged_credentials_file_is_set_aside_with_a_message(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / ".dbos-mcp"
    folder.mkdir()
    (folder / "credentials").write_text('{"token": "canary-tok')
    done = run("sync")
    assert done.returncode == 3
    assert "credentials.corrupt-1" in done.stderr
    assert "canary" not in done.stderr + done.stdout


def test_a_cache_that_is_missing_is_exit_code_4_and_not_created(run: Run, tmp_path: Path) -> None:
    done = run("--cache", str(tmp_path / "none.sqlite"), "rebuild")
    assert done.returncode == 4
    assert not (tmp_path / "none.sqlite").exists()


def test_a_cache_that_is_not_ours_is_left_as_it_is(run: Run, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(theirs)) as database:
        database.execute("CREATE TABLE precious (thing TEXT)")
    before = theirs.read_bytes()
    done = run("--cache", str(theirs), "sync", DBOS_URL="http://127.0.0.1:9")
    assert done.returncode == 1
    assert "is not a dbos-mcp cache; it was left as it is" in done.stderr
    assert theirs.read_bytes() == before


def test_a_cache_from_a_newer_version_is_left_as_it_is(
    run: Run, shop_url: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache.sqlite"
    run("--cache", str(cache), "sync", DBOS_SYSTEM_DATABASE_URL=shop_url)
    with closing(sqlite3.connect(cache)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    done = run("--cache", str(cache), "sync", DBOS_SYSTEM_DATABASE_URL=shop_url)
    assert done.returncode == 1
    assert "was written by a newer version of dbos-mcp (schema 9999" in done.stderr
    assert "Use the newest version" in done.stderr


@pytest.fixture
def conductor() -> Iterator[Callable[[int, str, str], str]]:
    """A web server that gives one answer to everything: `conductor(status, type, body)` → URL."""
    servers: list[ThreadingHTTPServer] = []

    def answering(status: int, content_type: str, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *arguments: object) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield answering
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "content_type", "body", "exit_code", "message"),
    [
        (401, "application/problem+json", "{}", 3, "DBOS_TOKEN"),
        (403, "application/problem+json", "{}", 1, "application.read"),
        (404, "application/problem+json", "{}", 4, "DBOS_ORG"),
        (404, "text/plain", "404 page not found", 1, "image 0.17.0 or later"),
        (429, "application/problem+json", "{}", 1, "too many requests"),
        (500, "application/problem+json", "{}", 1, "500"),
        (200, "text/html", "<html></html>", 1, "DBOS_URL"),
        (200, "application/json", '[{"id": "1", "na', 1, "JSON"),
    ],
)
def test_what_conductor_answers_becomes_a_message_and_an_exit_code(
    run: Run,
    conductor: Callable[[int, str, str], str],
    status: int,
    content_type: str,
    body: str,
    exit_code: int,
    message: str,
) -> None:
    done = run("sync", DBOS_URL=conductor(status, content_type, body))
    assert done.returncode == exit_code
    assert message.lower() in done.stderr.lower()
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_logs_are_json_lines_on_stderr(run: Run, shop_url: str) -> None:
    done = run("--log-level", "info", "sync", DBOS_SYSTEM_DATABASE_URL=shop_url)
    assert done.returncode == 0
    for line in done.stderr.splitlines():
        assert set(json.loads(line)) >= {"time", "level", "logger", "message"}


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").stdout.startswith("dbos-mcp 1.")


def test_a_missing_system_database_is_not_created(run: Run, tmp_path: Path) -> None:
    missing = tmp_path / "missing.sqlite"
    done = run("sync", DBOS_SYSTEM_DATABASE_URL=f"sqlite:///{missing}", DBOS_APP="shop")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: shop has no executor connected to Conductor.")
    assert not missing.exists()


def test_a_server_without_a_stdin_says_so_in_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        command(),
        env=environment(tmp_path, DBOS_URL="http://127.0.0.1:9"),
        preexec_fn=lambda: os.close(0),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: There is no stdin or no stdout to speak MCP on")
