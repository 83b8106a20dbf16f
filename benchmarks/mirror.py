"""A mirror of a population, as sync makes it: a first load, the steps of what failed, and perhaps
a thousand changes, so that there is something deleted and a history to tell."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr

from benchmarks.changes import apply_changes
from benchmarks.failures import Failures
from benchmarks.generate import Population, database_of, kept
from dbos_mcp.demo.tour import APPLICATION_NAME
from dbos_mcp.domain import FAILED
from dbos_mcp.runtime import Runtime, open_runtime
from dbos_mcp.settings import Settings
from dbos_mcp.store.migrate import HEAD
from dbos_mcp.store.projections import PROJECTIONS

FORMAT = 1
"""Part of the key: raise it when the mirror is made differently."""
DAYS = 30
FEWEST_ROWS = 4000
"""With fewer there are not a thousand changes to make."""


async def mirror_of(population: Population, folder: Path | None = None) -> Path:
    """The population's mirror, made unless an earlier run of this version's schema left it."""
    return await _mirror_of(population, "", lambda system: None, folder, changed=True)


async def mirror_of_failures(
    population: Population, failures: Failures, folder: Path | None = None
) -> Path:
    """The same, with these failures in place of the population's own and without the changes."""
    return await _mirror_of(population, f"-{failures.key}", failures.plant, folder, changed=False)


async def mirror_of_days_with_failures(rows: int, failures: int) -> Path:
    """The same, of `DAYS`, a fifth of the failures on the last one."""
    population = Population(rows=rows, days=DAYS, in_flight=max(20, rows // 2500))
    return await mirror_of_failures(population, Failures(failures))


async def _mirror_of(
    population: Population,
    suffix: str,
    prepare: Callable[[Path], None],
    folder: Path | None,
    *,
    changed: bool,
) -> Path:
    folder = folder or kept()
    versions = "-".join(f"{each.name}{each.version}" for each in PROJECTIONS)
    path = folder / f"mirror-{population.key}{suffix}-{FORMAT}-{HEAD}-{versions}.sqlite"
    if not path.exists():
        system = database_of(population, folder)
        with tempfile.TemporaryDirectory(prefix="mirror-", dir=folder) as name:
            copied, unfinished = Path(shutil.copy(system, name)), Path(name) / "cache.sqlite"
            prepare(copied)
            await make_mirror(copied, unfinished, changed=changed)
            unfinished.rename(path)
    return path


async def make_mirror(system: Path, cache: Path, *, changed: bool = False) -> None:
    """Mirror a system database, changed in between or not."""
    settings = Settings(
        home=cache.parent,
        system_database_url=SecretStr(f"sqlite:///{system}"),
        application_name=APPLICATION_NAME,
        cache=cache,
        history=None,
    )
    async with open_runtime(settings) as runtime:
        await _sync(runtime)
        await _read_failed(runtime)
        if changed:
            apply_changes(system)
        for _ in range(3):  # a cycle looks at a part of what is in flight
            await _sync(runtime)
        runtime.cache.checkpoint(wal_limit_bytes=0)


async def _sync(runtime: Runtime) -> None:
    for report in await runtime.require_live().worker.run_once():
        if report.error is not None:
            raise report.error


async def _read_failed(runtime: Runtime) -> None:
    """The steps that hundreds of cycles would read, a few in each."""
    with runtime.cache.read() as connection:
        failed = connection.exec_driver_sql(
            "SELECT workflow_id FROM workflow WHERE status IN (?, ?)", FAILED
        ).all()
    for (workflow_id,) in failed:
        await runtime.require_live().mirror.refresh_steps(APPLICATION_NAME, workflow_id)


def warm(path: Path) -> None:
    """Have the system keep the file in memory, where a mirror that is in use is anyway."""
    with path.open("rb", buffering=0) as file:
        chunk = bytearray(1 << 20)
        while file.readinto(chunk):
            pass


def offline(cache: Path) -> Settings:
    return Settings(home=cache.parent, cache=cache, offline=True)
