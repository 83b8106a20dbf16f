"""A PostgreSQL server of one's own, where the machine has the programs for one."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUPERUSER = "postgres"


class NoPostgresError(Exception):
    """There can be none here; it says why."""


@contextmanager
def running_postgres() -> Iterator[str]:
    """A fresh server, which listens on a socket in its own directory only: the URL to put a
    database's name into with `str.format`.

    Raises:
        NoPostgresError: it is not installed, or cannot be run by this user.
    """
    programs = _programs()
    as_user = _as_another_user() if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="postgres-") as directory:
        if as_user:  # the server refuses to run as root
            shutil.chown(directory, SUPERUSER)
        data = f"{directory}/data"

        def run(program: str, *arguments: str) -> None:
            command = [*as_user, str(programs / program), "--pgdata", data, *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory)

        run("initdb", "--auth=trust", f"--username={SUPERUSER}", "--encoding=UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories={directory} -c fsync=off"
        run("pg_ctl", "start", "--wait", f"--log={directory}/log", f"--options={options}")
        try:
            yield f"postgresql://{SUPERUSER}@/{{}}?host={directory}"
        finally:
            run("pg_ctl", "stop", "--mode=immediate")


def _programs() -> Path:
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), *_on_path()]
    for programs in sorted(found, reverse=True):
        if (programs / "initdb").exists() and (programs / "pg_ctl").exists():
            return programs
    raise NoPostgresError("PostgreSQL is not installed here")


def _on_path() -> Iterator[Path]:
    if initdb := shutil.which("initdb"):
        yield Path(initdb).parent


def _as_another_user() -> list[str]:
    runuser = shutil.which("runuser")
    passwd = Path("/etc/passwd").read_text()
    if runuser is None or f"\n{SUPERUSER}:" not in passwd:
        raise NoPostgresError("PostgreSQL does not run as root, and there is no user for it here")
    return [runuser, "-u", SUPERUSER, "--"]
