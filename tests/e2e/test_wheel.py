"""The wheel holds all that the program needs: built, installed elsewhere, and run there."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
UV = (
    os.environ.get("UV")
    or shutil.which("uv")
    or pytest.skip(
        "uv builds the wheel: run the tests with `uv run pytest`", allow_module_level=True
    )
)

CACHE = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")
"""Of whoever runs the tests: HOME is another below."""


def run(*command: str | Path, cwd: Path) -> str:
    environ = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environ, "HOME": str(cwd), "UV_CACHE_DIR": CACHE},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--wheel", "--out-dir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_migrations_and_nothing_of_the_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "dbos_mcp/_migrations/env.py" in names
    assert any(name.startswith("dbos_mcp/_migrations/versions/0001") for name in names)
    assert {"dbos_mcp/py.typed", "dbos_mcp/report/templates/page.html"} <= set(names)
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == {"dbos_mcp"}


def test_the_demo_runs_from_the_installed_wheel_in_another_folder(
    wheel: Path, tmp_path: Path
) -> None:
    run(UV, "venv", "--python", sys.executable, "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(UV, "pip", "install", "--python", python, f"{wheel}[local]", cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    said = run(python.with_name("dbos-mcp"), "demo", "--keep", elsewhere / "kept", cwd=elsewhere)
    assert "offline since" in said
    assert str(python) in said.splitlines()[-1]


def test_without_the_extra_the_demo_says_what_is_missing(wheel: Path, tmp_path: Path) -> None:
    run(UV, "venv", "--python", sys.executable, "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(UV, "pip", "install", "--python", python, wheel, cwd=tmp_path)
    done = subprocess.run(
        [python, "-m", "dbos_mcp", "demo"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "uv run --extra local dbos-mcp demo" in done.stderr
    assert "Traceback" not in done.stderr
