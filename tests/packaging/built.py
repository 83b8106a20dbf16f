"""The package as it is published: built by the real backend, without a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parents[2]
VERSION = "1.0.0a1"
SEMANTIC = "1.0.0-alpha.1"
"""The same, where a semantic version is wanted."""

CACHE = os.environ.get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")
"""Of whoever runs the tests: HOME is another below."""


def build(kind: Literal["wheel", "sdist"], source: Path, folder: Path) -> Path:
    program = f"import hatchling.build as b; print(b.build_{kind}({str(folder)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.splitlines()[-1]


def uv() -> str:
    return (
        os.environ.get("UV")
        or shutil.which("uv")
        or pytest.skip("uv installs the wheel: run the tests with `uv run pytest`")
    )


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Without what this process says about DBOS and about its Python."""
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "UV_PROJECT_ENVIRONMENT")
    own = {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("DBOS")}
    return {**own, "HOME": str(home), "UV_CACHE_DIR": CACHE, **variables}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment(cwd),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
