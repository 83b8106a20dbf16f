"""`rebuild` and `cache …`: what is done to a cache file."""

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbos_mcp.cli.help import Commands
from dbos_mcp.cli.options import AsJson, cache_file, existing_cache
from dbos_mcp.cli.terminal import (
    err,
    print_warning,
    say,
    until_interrupted,
    working,
)
from dbos_mcp.domain import counted, format_time, now_ms, size_text
from dbos_mcp.errors import DbosMcpError, StoreError, UsageError
from dbos_mcp.server.render import fields

if TYPE_CHECKING:
    from dbos_mcp.settings import Settings
    from dbos_mcp.store.engine import Cache

app = Commands(
    help="""Look after the cache file: check, back up, restore and prune it.

    All of it may be done while servers run, but for a restore.
    """
)


def rebuild(context: typer.Context) -> None:
    """Make all that is read from the event log again.

    The log holds every fact; what questions are answered from is folded from it. This folds it
    anew, and says whether it came out equal. The log itself is not changed.
    """
    from dbos_mcp.store import projector
    from dbos_mcp.store.migrate import open_cache

    cache = open_cache(existing_cache(context.obj.target()))
    try:
        with cache.write() as connection:
            tables = projector.rebuild(connection)
    finally:
        cache.close()
    for table in tables:
        verdict = "equal to the live ones" if table.equal else "DIFFERENT from the live ones"
        say(f"{table.table}: {counted(table.rows, 'row')}, {verdict}")
    if not all(table.equal for table in tables):
        say("The rebuilt rows are kept: the log is the truth. Please report this.", console=err)
        sys.exit(1)


@app.command("path", epilog="Example: dbos-mcp cache path --json")
def path_(context: typer.Context, as_json: AsJson = False) -> None:
    """Print where the cache file is.

    As for `sqlite3 -readonly "$(dbos-mcp cache path)"`; with --json also its size, schema and
    backups.
    """
    path = cache_file(context.obj.target())
    typer.echo(json.dumps(_file_facts(path), indent=2) if as_json else str(path))


def _file_facts(path: Path) -> dict[str, Any]:
    from dbos_mcp.store import backup as backups
    from dbos_mcp.store.engine import Cache
    from dbos_mcp.store.schema import revision_of

    facts: dict[str, Any] = {
        "path": str(path),
        "bytes": path.stat().st_size,
        "wal_bytes": _size_of(path.with_name(f"{path.name}-wal")),
        "backups": [str(each.path) for each in backups.backups(path)],
    }
    try:
        with closing(Cache(path, writable=False)) as cache, cache.read() as connection:
            return {**facts, "schema": revision_of(connection), "incident_file": cache.is_excerpt}
    except DbosMcpError as error:
        return {**facts, "schema": None, "error": str(error)}


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@app.command(epilog="Example: dbos-mcp cache check --deep")
def check(
    context: typer.Context,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read each event, and fold all of them, on a copy.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look the cache through for damage.

    It ends with exit code 1 where there is some, and says of each finding what to do. Servers may
    go on meanwhile.
    """
    from dbos_mcp.upkeep import check as upkeep
    from dbos_mcp.upkeep.check import Level

    path = cache_file(context.obj.target())
    with until_interrupted(), working("Looking…") as status:

        def show(done: int, total: int) -> None:
            status.update(f"Folding the log… {done} of {total}")

        checked = upkeep.check(path, now=now_ms(), deep=deep, progress=show)
    if as_json:
        findings = [
            {"level": f.level, "check": f.check, "told": f.told, "next_step": f.next_step or None}
            for f in checked.findings
        ]
        told = {"path": str(path), "sound": checked.is_sound, "findings": findings}
        typer.echo(json.dumps(told, indent=2))
    else:
        for finding in checked.findings:
            line = f"{finding.level:<4}  {finding.check}: {finding.told}"
            say(line)
            if finding.next_step and finding.level is not Level.OK:
                say(f"      {finding.next_step}")
    if not checked.is_sound:
        sys.exit(1)


@app.command(epilog="Example: dbos-mcp cache backup --keep 7")
def backup(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="Where to. Left out, beside the cache.", dir_okay=False
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Remove all but the newest N beside the cache."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy the cache as of one moment, while everything runs.

    The copy lies beside the cache unless a file is named, and only its owner may read it.
    `dbos-mcp cache restore` takes the newest one.
    """
    from dbos_mcp.store import backup as backups
    from dbos_mcp.store.engine import Cache
    from dbos_mcp.store.schema import revision_of

    if file is not None and keep is not None:
        raise UsageError("--keep is about the backups beside the cache, not about a named file.")
    path = _own_cache(context.obj.target())
    with closing(Cache(path, writable=False)) as cache:
        _refuse_excerpt(cache)
        with cache.read() as connection:
            schema = revision_of(connection) or "0"
        target = file or backups.place(path, schema=schema, now=now_ms())
        with until_interrupted("Nothing was written."), working("Copying…"):
            size = backups.backup(cache, target, force=force)
    lines = [("backup", f"{target}, {size_text(size)}")]
    if keep is not None:
        asked_for = [each for each in backups.backups(path) if not each.automatic]
        for each in asked_for[keep:]:
            each.path.unlink()
        lines.append(("kept", f"the newest {min(keep, len(asked_for))} of {len(asked_for)}"))
    lines.append(("back to it", "dbos-mcp cache restore FILE"))
    say(fields(lines, limit=2000))


@app.command(epilog="Example: dbos-mcp cache restore backup.sqlite")
def restore(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A backup. Left out, what can be saved of the cache, and the newest backup.",
            dir_okay=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a cache that is sound, too.")
    ] = False,
) -> None:
    """Make a damaged cache whole again.

    From a backup, or from what can be saved of the cache and the newest backup beside it. The old
    file is set aside, never removed. Servers and `sync --watch` on it have to be ended first.
    """
    from dbos_mcp.upkeep.restore import restore as restore_cache

    path = _own_cache(context.obj.target(), missing_ok=True)
    with _nobody_syncs(path), until_interrupted("Nothing was changed."), working("Restoring…"):
        done = restore_cache(path, file, now=now_ms(), force=force)
    lines = [
        ("cache", f"{done.path}, {counted(done.events, 'event')}"),
        ("saved", f"{counted(done.saved, 'event')} of the old file" if done.saved else ""),
        ("backup", f"{counted(done.filled, 'event')} of {done.source}" if done.source else ""),
        ("lost", counted(done.lost, "event") if done.lost else "nothing that is known of"),
        ("old file", "" if done.set_aside is None else str(done.set_aside)),
        ("next", "`dbos-mcp sync` reads what is missing"),
    ]
    say(fields([line for line in lines if line[1]], limit=2000))


@app.command(epilog="Example: dbos-mcp cache prune --before -90d --dry-run")
def prune(
    context: typer.Context,
    before: Annotated[
        str, typer.Option(metavar="TIME", help="When: -90d, or ISO 8601 with a zone.")
    ],
    application: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this application only.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what would go, and change nothing.")
    ] = False,
) -> None:
    """Compact the log: of what ended before a time, the last known state stays.

    Its earlier states are removed for good, and the file gives back their space. What is still in
    flight is left as it is. Make a backup first, or look with --dry-run.
    """
    from dbos_mcp.server.tools import arguments
    from dbos_mcp.store.migrate import open_cache
    from dbos_mcp.upkeep.prune import give_back
    from dbos_mcp.upkeep.prune import prune as prune_log

    now = now_ms()
    moment = arguments.time("--before", before, now=now)
    if moment is None:
        raise UsageError("Say before when, as --before -90d.")
    path = _own_cache(context.obj.target())
    freed = 0
    with (
        until_interrupted("What was pruned until now is complete."),
        working("Looking…") as status,
    ):
        with closing(open_cache(path)) as cache:
            done = prune_log(
                cache,
                moment,
                application,
                now=now,
                dry_run=dry_run,
                progress=lambda events: status.update(f"Pruning… {counted(events, 'event')}"),
            )
        if not dry_run:
            status.update("Giving back the space…")
            try:
                freed = give_back(path)
            except StoreError as error:
                print_warning(str(error))
    went = f"{counted(done.events, 'event')} of {counted(done.workflows, 'workflow')}"
    left = f"{counted(done.left, 'workflow')}, whose events do not add up"
    lines = [
        ("before", format_time(moment)),
        ("would go" if dry_run else "went", f"{went}, {size_text(done.bytes)}"),
        ("left", left if done.left else ""),
        ("given back", size_text(freed) if freed else ""),
    ]
    say(fields([line for line in lines if line[1]], limit=2000))
    if done.left:
        print_warning("`dbos-mcp cache check --deep` tells what is wrong with them.")


def _own_cache(settings: "Settings", *, missing_ok: bool = False) -> Path:
    """A cache that may be worked on."""
    from dbos_mcp.runtime import locate_cache

    if settings.offline:
        raise UsageError(
            "With --offline a cache can only be read.", hint="Leave --offline out for that."
        )
    return locate_cache(settings) if missing_ok else cache_file(settings)


def _refuse_excerpt(cache: "Cache") -> None:
    if cache.is_excerpt:
        raise UsageError(f"{cache.path} is an incident file: it can only be read, or copied.")


@contextmanager
def _nobody_syncs(path: Path) -> Iterator[None]:
    """A cycle under way would write what it knows of the old file."""
    from dbos_mcp.sync.leadership import Leadership

    locks = [Leadership(path), Leadership(path, "asked")]
    try:
        if not all(lock.take() for lock in locks):
            raise StoreError(
                f"Another process syncs the cache {path}.",
                hint="End the servers and the `sync --watch` that use it, and try again; they can"
                " be started again right after.",
            )
        yield
    finally:
        for lock in locks:
            if lock.held:
                lock.release()
