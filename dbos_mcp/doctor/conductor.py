"""What is behind the address: its applications, their executors, and its clock."""

import sys
from collections.abc import Iterator

from dbos_mcp.doctor.account import READ
from dbos_mcp.doctor.asking import Asked
from dbos_mcp.doctor.finding import Fact, Finding, fail, ok, skip, warn
from dbos_mcp.doctor.network import OFFLINE
from dbos_mcp.doctor.subject import Subject
from dbos_mcp.domain import format_duration
from dbos_mcp.errors import DbosMcpError

MOST_SHOWN = 8
AVAILABLE, HEALTHY = "AVAILABLE", "HEALTHY"
WARN_MS, FAIL_MS = 30_000, 300_000


def applications(subject: Subject) -> Iterator[Finding]:
    if (asked := subject.asked) is None:
        yield skip(OFFLINE)
        return
    found = asked.applications
    if found is None:
        yield skip("they could not be asked for")
        return
    if not found:
        where = "this database" if subject.settings.is_local else "this organization"
        yield warn(
            f"no application is registered in {where}",
            "Start one with `conductor_key` set, or register it at the DBOS console."
            if not subject.settings.is_local
            else "Name it with DBOS_APP, or start it once on this database.",
            applications=0,
        )
        return
    available = [each for each in found if each.status == AVAILABLE]
    facts: dict[str, Fact] = {"applications": len(found), "available": len(available)}
    if subject.settings.is_local:
        names = [each.name for each in found]
        more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
        yield ok(f"{', '.join(names[:MOST_SHOWN])}{more}", **facts)
    elif available:
        yield ok(f"{len(available)} of {len(found)} connected", **facts)
    else:
        yield warn(
            f"none of {len(found)} is connected: what they did can be read, steps and commands"
            " wait for them",
            "Start the application, with its conductor_key, and look at its log.",
            **facts,
        )
    if not subject.settings.is_local:
        for application in sorted(found, key=lambda each: each.status == AVAILABLE)[:MOST_SHOWN]:
            yield _one(asked, application.name, application.status)
        if len(found) > MOST_SHOWN:
            yield ok(f"and {len(found) - MOST_SHOWN} more: `dbos-mcp status` has them all")


def _one(asked: Asked, name: str, status: str) -> Finding:
    executors = asked.executors.get(name)
    if status != AVAILABLE:
        told = f"{name}: not connected ({status.lower()})"
        return ok(told, application=name, application_status=status)
    if executors is None:
        return ok(f"{name}: connected", application=name, application_status=status)
    if isinstance(executors, DbosMcpError):
        return warn(
            f"{name}: its executors cannot be listed. {executors.message}",
            executors.hint or f"It may lack {READ}.",
            application=name,
            application_status=status,
        )
    healthy = sum(each.status == HEALTHY for each in executors)
    others = len(executors) - healthy
    gone = f", {others} gone or going" if others else ""
    count = "1 executor" if healthy == 1 else f"{healthy} executors"
    return ok(
        f"{name}: {count}{gone}",
        application=name,
        application_status=status,
        executors=healthy,
        executors_gone=others,
    )


def clock(subject: Subject) -> Iterator[Finding]:
    """Time zones are no matter: both clocks are compared in UTC."""
    if subject.settings.is_local:
        yield skip("a system database has no other clock")
        return
    if (asked := subject.asked) is None:
        yield skip(OFFLINE)
        return
    if not asked.is_conductor:
        yield skip("there is no answer of Conductor's")
        return
    if asked.ahead_ms is None:
        yield skip("its answer has no date")
        return
    off = abs(asked.ahead_ms)
    facts: dict[str, Fact] = {"ahead_ms": asked.ahead_ms}
    if off <= WARN_MS:
        yield ok("as Conductor's, to a few seconds", **facts)
        return
    way = "ahead of" if asked.ahead_ms > 0 else "behind"
    told = f"this machine's clock is {format_duration(off)} {way} Conductor's"
    if off <= FAIL_MS:
        yield warn(f"{told}: ages of answers are wrong by as much", _set_it(), **facts)
    else:
        yield fail(
            f"{told}: logins end too {'early' if asked.ahead_ms > 0 else 'late'} here, and ages"
            " of answers are wrong by as much",
            _set_it(),
            **facts,
        )


def _set_it() -> str:
    if sys.platform == "darwin":
        return "Type `sudo sntp -sS time.apple.com`."
    if sys.platform == "win32":
        return "Type `w32tm /resync`."
    return "Type `sudo timedatectl set-ntp true`, and `timedatectl` to see that it is set."
