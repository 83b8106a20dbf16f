"""`dbos-mcp report` as a person uses it."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dbos_mcp.domain import now_ms
from tests import command_line
from tests.command_line import Done
from tests.report import hostile
from tests.upstream import Tables, pickled, workflow

Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Where there is no login, and no Conductor."""
    return partial(command_line.run, tmp_path)


@pytest.fixture(scope="module")
def mirror(shop_leftover: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a shop that ran; its database lies beside it."""
    folder = tmp_path_factory.mktemp("mirror")
    for leftover in shop_leftover.parent.glob("shop.sqlite*"):
        shutil.copy(leftover, folder)
    cache = folder / "mirror.sqlite"
    upstream = {"DBOS_SYSTEM_DATABASE_URL": f"sqlite:///{folder / 'shop.sqlite'}"}
    done = command_line.run(folder, "--cache", str(cache), "sync", **upstream)
    assert done.returncode == 0
    return cache


def test_a_report_is_written_once_for_its_owner_alone(
    run: Run, mirror: Path, tmp_path: Path
) -> None:
    report = partial(run, "--offline", "--cache", str(mirror), "report", "order-1005")
    file = tmp_path / "order.html"
    done = report("-o", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert told["file"].startswith(f"{file}, ")
    assert told["tells"] == "ERROR: place_order order-1005"
    assert told["redacted"] == "nothing was found"
    page = file.read_text()
    assert page.startswith("<!doctype html>")
    assert "2 levels down" in page
    assert file.stat().st_mode & 0o777 == 0o600
    again = report("-o", str(file), "--format", "md")
    assert again.returncode == 2
    assert "already; it was left as it is" in again.stderr
    assert file.read_text() == page
    assert report("-o", str(file), "--format", "md", "--force").returncode == 0
    assert file.read_text().startswith("# place\\_order: ERROR\n")
    assert [path.name for path in tmp_path.iterdir()] == ["order.html"]


def test_failures_are_reported_as_the_suffix_says_or_on_stdout(
    run: Run, mirror: Path, tmp_path: Path
) -> None:
    file = tmp_path / "failures.md"
    report = partial(run, "--offline", "--cache", str(mirror), "report", "--failures")
    done = report("--since", "30d", "-o", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert "tells: Failures of shop\n" in done.stdout
    cause = "| 1 | `book_courier` "
    assert cause in file.read_text()
    done = report("--since", "-30d", "-o", "-", "--format", "md")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("# Failures of shop\n")
    assert cause in done.stdout


def test_what_the_mirror_lacks_is_read_at_conductor(run: Run, mirror: Path) -> None:
    live = {"DBOS_SYSTEM_DATABASE_URL": f"sqlite:///{mirror.with_name('shop.sqlite')}"}
    report = partial(run, "--cache", str(mirror), "report", "order-1005", "-o", "-")
    done = report("--format", "md", **live)
    assert (done.returncode, done.stderr) == (0, "")
    assert "`input.city = Belfast`" in done.stdout
    offline = run("--offline", "--cache", str(mirror), "report", "order-1005", "-o", "-")
    assert "input.city" not in offline.stdout


def test_a_report_on_failures_looks_at_what_is_new(run: Run, mirror: Path, tmp_path: Path) -> None:
    for leftover in mirror.parent.glob("*.sqlite"):
        shutil.copy(leftover, tmp_path)
    database, cache = tmp_path / "shop.sqlite", str(tmp_path / mirror.name)
    Tables(database).add(
        workflow("late", now_ms(), "ERROR", error=pickled(ValueError("a new one")))
    )
    report = partial(run, "--cache", cache, "report", "--failures", "-o", "-", "--format", "md")
    done = report(DBOS_SYSTEM_DATABASE_URL=f"sqlite:///{database}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a new one" in done.stdout
    done = report(DBOS_URL="http://127.0.0.1:9")
    assert done.returncode == 0
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("Warning: Not as fresh as asked: ")


def test_while_conductor_is_away_the_mirror_is_reported_with_a_warning(
    run: Run, mirror: Path, tmp_path: Path
) -> None:
    file = tmp_path / "order.md"
    report = partial(run, "--cache", str(mirror), "report", "order-1005", "-o", str(file))
    done = report(DBOS_URL="http://127.0.0.1:9")
    assert done.returncode == 0
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("Warning: ")
    assert "cannot be reached" in warning
    written = file.read_text()
    assert "2 levels down" in written
    assert "cannot be reached" in written.partition("## What is not known")[2]


def test_an_incident_file_is_reported_on_another_machine(
    run: Run, mirror: Path, tmp_path: Path
) -> None:
    file, elsewhere = tmp_path / "incident.sqlite", tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = run("--offline", "--cache", str(mirror), "export", "--workflow", "order-1005", str(file))
    assert made.returncode == 0
    before = file.read_bytes()
    report = partial(command_line.run, elsewhere, "--offline", "--cache", str(file), "report")
    done = report("order-1005", "-o", str(elsewhere / "order.html"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "an excerpt made at" in (elsewhere / "order.html").read_text()
    assert report("--failures", "--since", "30d", "-o", "-").returncode == 0
    assert file.read_bytes() == before


def test_the_exit_codes_say_why_there_is_no_report(run: Run, mirror: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    for arguments, code, message in (
        ([], 2, "Say what to report on."),
        (["order-1005", "--since", "24h"], 2, "tells all of it"),
        (["--failures", "--since", "yesteryear"], 2, "is not a time"),
        (["--failures", "--since", "-1h", "--until", "-2h"], 2, "ends before it begins"),
        (["--failures", "--application", "shopp"], 4, "No application 'shopp'"),
        (["pay"], 4, "No workflow 'pay' is mirrored.\n`dbos-mcp sync` mirrors what is new"),
    ):
        done = run("--offline", "--cache", str(mirror), "report", *arguments, "-o", str(file))
        assert (done.returncode, done.stdout) == (code, "")
        assert message in done.stderr
        assert not file.exists()
    nowhere = str(tmp_path / "no folder" / "report.html")
    done = run("--offline", "--cache", str(mirror), "report", "order-1005", "-o", nowhere)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr


def test_a_file_is_named_after_its_subject_in_safe_characters(
    run: Run, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile.add_hostile(Tables(empty_database))
    url = f"sqlite:///{empty_database}"
    run("sync", DBOS_SYSTEM_DATABASE_URL=url)
    done = run("report", hostile.TOP, DBOS_SYSTEM_DATABASE_URL=url)
    assert done.returncode == 0
    assert not set(done.stdout) & set("\u202e\u2066\u200b\x1b\x07")
    status = run("status", DBOS_SYSTEM_DATABASE_URL=url)
    assert "redacted before storing" in status.stdout
    (made,) = tmp_path.glob("report-*")
    assert made.name == "report-top-script-alert-ran-script-abc-gnp.exe.html"
    assert run("report", "--failures", DBOS_SYSTEM_DATABASE_URL=url).returncode == 0
    (made,) = tmp_path.glob("failures-*")
    assert made.suffix == ".html"
