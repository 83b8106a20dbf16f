"""What the page on operations shows of a cache: sound, and damaged."""

import subprocess
from pathlib import Path

from tests import command_line
from tests.docs.pages import blocks, not_said

PAGE = "docs/operations.md"
ANY_HOME = "/home/alice/.dbos-mcp/"


def test_a_cache_is_looked_after_and_a_damaged_one_mended_as_the_page_shows(
    shop_database: Path, tmp_path: Path
) -> None:
    def run(line: str) -> "subprocess.CompletedProcess[str]":
        words = line.partition("#")[0].split()[1:]
        url = f"sqlite:///{shop_database}"
        return command_line.run(tmp_path, *words, DBOS_SYSTEM_DATABASE_URL=url)

    assert run("dbos-mcp sync").returncode == 0
    path, *others = blocks(PAGE, "The cache")[0].text.splitlines()
    cache = Path(run(path).stdout.strip())
    *_, checked = [run(line) for line in others]
    assert checked.returncode == 0
    assert not_said(blocks(PAGE, "The cache")[1].text, checked.stdout) == []

    with cache.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(bytes(3 * 4096))
    commands, shown, *_ = blocks(PAGE, "When it breaks")
    found, mended, synced = [run(line) for line in commands.text.splitlines()]
    assert [done.returncode for done in (found, mended, synced)] == [1, 0, 0]
    said = (found.stdout + mended.stdout).replace(f"{cache.parent}/", ANY_HOME)
    assert not_said(shown.text, said) == []
    assert run("dbos-mcp cache check").returncode == 0


def test_what_the_page_shows_of_errors_is_what_they_say(tmp_path: Path) -> None:
    shown = blocks(PAGE, "When it breaks")[2].text
    away = command_line.run(tmp_path, "sync", DBOS_URL="http://localhost:9")
    nobody = command_line.run(tmp_path, "sync")
    assert (away.returncode, nobody.returncode) == (1, 3)
    assert away.stderr.replace(":9 ", ":8099 ") in f"{shown}\n"
    assert nobody.stderr in f"{shown}\n"
