"""The file that holds the mirror, and the disk that holds it."""

import os
from collections.abc import Iterator
from functools import wraps

from dbos_mcp.doctor.finding import Fact, Finding, Look, Status, fail, ok, skip, warn
from dbos_mcp.doctor.held import Held
from dbos_mcp.doctor.later import LateError
from dbos_mcp.doctor.subject import DEEP_BOUND_SECONDS, Subject
from dbos_mcp.domain import format_duration, format_time, size_text
from dbos_mcp.errors import AuthenticationError, UsageError
from dbos_mcp.files import may
from dbos_mcp.store import schema
from dbos_mcp.store.damage import EVERY_MS
from dbos_mcp.store.migrate import HEAD
from dbos_mcp.upkeep.check import LARGEST_WAL_BYTES

TOO_LITTLE_BYTES, LITTLE_BYTES = 50_000_000, 500_000_000
DEEP = "Type `dbos-mcp doctor --deep`."
SYNC = "Type `dbos-mcp sync`, or start a server."


def of_a_known_cache(look: Look) -> Look:
    """Which one it is, is told by the organization."""

    @wraps(look)
    def run(subject: Subject) -> Iterator[Finding]:
        try:
            subject.cache_path  # noqa: B018 # a property that may raise
        except (AuthenticationError, UsageError):
            yield skip("which file it is depends on the organization, which is not known")
            return
        yield from look(subject)

    return run


@of_a_known_cache
def file(subject: Subject) -> Iterator[Finding]:
    held, shown = subject.held, subject.shown
    facts: dict[str, Fact] = {"path": str(held.path), "exists": held.exists}
    if held.mount is not None and held.mount.is_remote and not subject.settings.offline:
        yield fail(
            f"{shown(held.path)} is on a network file system ({held.mount.kind}), where it is not"
            " safe from several processes",
            "Name a file on a local disk: `export DBOS_MCP_CACHE=/path/on/a/local/disk.sqlite`.",
            **facts,
        )
        return
    if not held.exists:
        yield _missing(subject, held)
        return
    facts |= {
        "bytes": held.bytes,
        "wal_bytes": held.wal_bytes,
        "mode": None if held.mode is None else f"{held.mode:04o}",
        "owner": held.owner,
        "writable": held.unwritable is None,
        "incident_file": held.is_excerpt,
    }
    if held.error is not None:
        step = held.error.hint
        if not may(held.path, os.R_OK):
            step = f"Type `ls -l {shown(held.path)}`: it must be yours, and readable."
        yield fail(held.error.message, step, **facts)
        return
    kind = ", an incident file" if held.is_excerpt else ""
    wal = f" and {size_text(held.wal_bytes)} of WAL" if held.wal_bytes else ""
    told = f"{shown(held.path)}{kind}, {size_text(held.bytes)}{wal}"
    if held.unwritable is not None and not (subject.settings.offline or held.is_excerpt):
        yield warn(
            f"{told}, cannot be written to: it is only read, and nothing is synced",
            f"Type `chmod u+w {shown(held.folder)} {shown(held.path)}`; or name another file with"
            " DBOS_MCP_CACHE.",
            **facts,
        )
    elif os.name == "posix" and held.owner != os.geteuid():
        yield warn(
            f"{told}, is another user's (number {held.owner})",
            f"Run dbos-mcp as that user, or type `sudo chown $(id -u) {shown(held.path)}`.",
            **facts,
        )
    elif os.name == "posix" and held.mode is not None and held.mode & 0o077:
        yield warn(
            f"{told}, can be read by others ({held.mode:04o})",
            f"Type `chmod 600 {shown(held.path)}`.",
            **facts,
        )
    elif held.wal_bytes > LARGEST_WAL_BYTES:
        yield warn(
            told, "The next sync folds the WAL back, once no program reads for long.", **facts
        )
    else:
        yield ok(told, **facts)


def _missing(subject: Subject, held: Held) -> Finding:
    shown = subject.shown
    facts: dict[str, Fact] = {"path": str(held.path), "exists": False}
    if subject.settings.offline:
        return fail(
            f"there is no {shown(held.path)}",
            "Without --offline, `dbos-mcp sync` makes one; --cache FILE names another.",
            **facts,
        )
    if not held.writable:
        return fail(
            f"{shown(held.path)} cannot be made: {shown(held.folder)} cannot be written to",
            f"Type `chmod u+rwx {shown(held.folder)}`; or name a file elsewhere:"
            " `export DBOS_MCP_CACHE=/path/to/cache.sqlite`.",
            **facts,
        )
    return ok(f"{shown(held.path)} is not there yet: the first start makes it", **facts)


@of_a_known_cache
def disk(subject: Subject) -> Iterator[Finding]:
    held, shown = subject.held, subject.shown
    if held.free_bytes is None:
        yield skip("its free space is not told")
        return
    told = f"{size_text(held.free_bytes)} are free in {shown(held.folder)}"
    facts: dict[str, Fact] = {"free_bytes": held.free_bytes, "folder": str(held.folder)}
    step = (
        f"Free some space (`df -h {shown(held.folder)}`), or name a file elsewhere with"
        " DBOS_MCP_CACHE."
    )
    if held.free_bytes < TOO_LITTLE_BYTES:
        yield fail(f"{told}: nothing can be synced", step, **facts)
    elif held.free_bytes < max(LITTLE_BYTES, held.bytes):
        yield warn(f"{told}: a migration or a backup needs room for a copy", step, **facts)
    else:
        yield ok(told, **facts)


@of_a_known_cache
def schema_version(subject: Subject) -> Iterator[Finding]:
    held = subject.held
    if (why := not_read(held)) is not None:
        yield skip(why)
        return
    facts: dict[str, Fact] = {"schema": held.revision, "schema_of_this_version": HEAD}
    if held.revision is None:
        yield ok("none: it is still empty", **facts)
    elif held.revision == HEAD:
        yield ok(f"{HEAD}, as of this version", **facts)
    elif held.revision < HEAD:
        if subject.settings.offline and not held.is_excerpt:
            yield fail(
                f"{held.revision}, of an older version (this one has {HEAD}): it is not read with"
                " --offline",
                "Type `dbos-mcp rebuild`: it needs no Conductor.",
                **facts,
            )
        else:
            yield ok(
                f"{held.revision}, of an older version: the next start brings it to {HEAD}, and"
                " keeps a copy",
                **facts,
            )
    elif held.readable:
        yield warn(
            f"{held.revision}, of a newer version (this one has {HEAD}): it is only read, and"
            " nothing is synced",
            f"{schema.NEWEST}.",
            **facts,
        )
    else:
        yield fail(
            f"{held.revision}, of a newer version (this one has {HEAD}): it cannot be read",
            f"{schema.NEWEST}, or name another file with DBOS_MCP_CACHE.",
            **facts,
        )


@of_a_known_cache
def integrity(subject: Subject) -> Iterator[Finding]:
    held = subject.held
    if not held.exists:
        yield skip("there is no cache yet")
        return
    if subject.deep:
        yield from _deep(subject)
        return
    if (why := not_read(held)) is not None:
        yield skip(why)
        return
    if held.is_excerpt:
        yield ok("its pages are looked through each time that it is opened")
        return
    if held.sound_at is None:
        if held.revision is None:
            yield skip("it is still empty")
        elif held.led:
            yield warn("no look has found it sound yet", DEEP, found_sound_at=None)
        else:
            yield ok("not looked through yet: the first server does, and `doctor --deep`")
        return
    age = max(0, subject.now - held.sound_at)
    told = f"found sound {format_duration(age)} ago"
    facts: dict[str, Fact] = {"found_sound_at": format_time(held.sound_at)}
    if held.led and age > 2 * EVERY_MS:
        yield warn(f"{told}, though it should be looked through each day", DEEP, **facts)
    else:
        yield ok(told, **facts)


def _deep(subject: Subject) -> Iterator[Finding]:
    try:
        checked = subject.checked
    except LateError:
        yield warn(
            f"not looked through within {DEEP_BOUND_SECONDS:g} s",
            "Type `dbos-mcp cache check`, which takes the time that it needs.",
        )
        return
    assert checked is not None
    for found in checked.findings:
        if found.check in ("pages", "read models", "log", "opens"):
            step = found.next_step if found.level != "ok" else ""
            message = f"{found.check}: {found.told}"
            yield Finding(Status(found.level.value), message, step, {"check": found.check})


def not_read(held: Held) -> str | None:
    if not held.exists:
        return "there is no cache yet"
    return None if held.error is None else "the cache cannot be read"
