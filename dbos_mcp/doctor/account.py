"""Who asks, until when, and what they may."""

import os
import stat
from collections.abc import Callable, Iterator
from functools import wraps

from dbos_mcp.conductor.credentials import API_KEY_PREFIX, Login, expiry_of
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.doctor.asking import Asked
from dbos_mcp.doctor.finding import Fact, Finding, Look, fail, failed, ok, skip, warn
from dbos_mcp.doctor.network import OFFLINE
from dbos_mcp.doctor.subject import Account, Subject
from dbos_mcp.domain import format_duration, tell_time
from dbos_mcp.errors import AuthenticationError, NotFoundError, PermissionDeniedError
from dbos_mcp.files import may
from dbos_mcp.login import NOT_REGISTERED, REFUSED_WITHOUT
from dbos_mcp.runtime import how_to_log_in_to, login_command, login_store
from dbos_mcp.settings import Settings

SOON_MS = 15 * 60_000
READ, WRITE = "application.read", "application.write"


def login(subject: Subject) -> Iterator[Finding]:
    settings, account = subject.settings, subject.account
    if settings.is_local:
        yield ok("none is needed: the database is read directly", kind="none")
    elif settings.offline and settings.cache is not None:
        yield skip("--offline with a cache that is named needs none")
    elif account.error is not None:
        yield _nobody(subject, account)
    elif account.login is not None:
        yield _kept(subject, account, account.login)
    elif settings.token is not None:
        yield _token(subject, settings.token.get_secret_value())
    else:
        yield ok("none: this Conductor is asked as nobody in particular", kind="none")


def _nobody(subject: Subject, account: Account) -> Finding:
    settings, error = subject.settings, account.error
    assert error is not None
    step = error.hint
    if isinstance(error, AuthenticationError) and settings.issuer and settings.token is None:
        step = f"Type `{login_command(settings)}`; or set DBOS_TOKEN to an API key."
        if account.login is not None and account.login.organization is None:
            step = error.hint
    found = failed(error, step, kind="none" if account.login is None else "login")
    if settings.offline and _is_cache_known(subject):
        return warn(f"{error.message} --offline goes without", step, **dict(found.facts))
    return found


def _is_cache_known(subject: Subject) -> bool:
    try:
        return subject.cache_path.exists()
    except (AuthenticationError, OSError):
        return False


def _kept(subject: Subject, account: Account, login: Login) -> Finding:
    settings, now = subject.settings, subject.now
    who = login.user_name or "a user"
    organization = settings.organization or login.organization
    of = f" of {organization}" if organization else ""
    borrowed = login_store(settings, look_only=True).load() != login
    facts: dict[str, Fact] = {
        "kind": "login",
        "user": login.user_name,
        "organization": organization,
        "ends_at": None if login.ends_at is None else tell_time(login.ends_at),
        "renewed": account.renews,
        "borrowed": borrowed,
    }
    if account.renews and account.ended(now):
        told = f"{who}{of}: it has ended, and the next request renews it; this look does not"
        return ok(told, **facts)
    if account.renews:
        return ok(f"{who}{of}, renewed by itself", **facts)
    command = f"Type `{login_command(settings)}` for one that is renewed by itself."
    elsewhere = " (borrowed from dbosctl, and not renewed here)" if borrowed else ""
    if login.ends_at is None:
        return ok(f"{who}{of}{elsewhere}; it is not known until when", **facts)
    left = login.ends_at * 1000 - now
    if left < SOON_MS:
        return warn(f"{who}{of}{elsewhere}: it ends in {format_duration(left)}", command, **facts)
    return ok(f"{who}{of}{elsewhere}, until {tell_time(login.ends_at)}", **facts)


def _token(subject: Subject, token: str) -> Finding:
    """DBOS_TOKEN's."""
    organization = subject.settings.known_organization
    of = f" of {organization}" if organization else ""
    if token.startswith(API_KEY_PREFIX):
        told = f"an API key{of} (DBOS_TOKEN), which does not end by itself"
        return ok(told, kind="api key", organization=organization)
    ends_at = expiry_of(token)
    facts: dict[str, Fact] = {
        "kind": "token",
        "organization": organization,
        "ends_at": None if ends_at is None else tell_time(ends_at),
    }
    until = "it is not known until when" if ends_at is None else f"until {tell_time(ends_at)}"
    told = f"a token{of} (DBOS_TOKEN), {until}; it is not renewed"
    if ends_at is not None and ends_at * 1000 - subject.now < SOON_MS:
        return warn(told, how_to_log_in_to(subject.settings), **facts)
    if organization is None:
        return fail(
            f"{told}. Its organization is not set",
            "Set DBOS_ORG beside DBOS_TOKEN: the line on the organization tells its name.",
            **facts,
        )
    return ok(told, **facts)


def file(subject: Subject) -> Iterator[Finding]:
    path = subject.settings.credentials_path
    shown, folder = subject.shown(path), subject.shown(path.parent)
    try:
        found = path.stat()
    except FileNotFoundError:
        yield ok(f"there is no {shown}", path=str(path), exists=False)
        return
    except OSError as error:
        yield fail(
            f"{shown} cannot be looked at: {error.strerror}",
            f"Type `ls -ld {folder}`: the folder must be yours.",
            path=str(path),
        )
        return
    mode, owner = stat.S_IMODE(found.st_mode), found.st_uid
    facts: dict[str, Fact] = {"path": str(path), "exists": True, "mode": f"{mode:04o}"}
    if os.name == "posix" and owner != os.geteuid():
        yield warn(
            f"{shown} is another user's (number {owner})",
            f"Type `sudo chown $(id -u) {shown}`.",
            **facts,
        )
    elif os.name == "posix" and mode & 0o077:
        yield warn(f"others can read {shown} ({mode:04o})", f"Type `chmod 600 {shown}`.", **facts)
    elif not may(path, os.R_OK):
        yield fail(f"{shown} cannot be read ({mode:04o})", f"Type `chmod 600 {shown}`.", **facts)
    elif os.name == "posix" and path.parent.stat().st_mode & 0o022:
        others = f"others can put files into {folder}"
        yield warn(others, f"Type `chmod 700 {folder}`.", **facts)
    else:
        yield ok(f"{shown} is yours alone ({mode:04o})", **facts)


def if_asked(look: Callable[[Subject, Asked], Iterator[Finding]]) -> Look:
    """With what came of asking Conductor as whoever it is."""

    @wraps(look)
    def run(subject: Subject) -> Iterator[Finding]:
        why, asked = _not_asked(subject), subject.asked
        if why is not None or asked is None:
            yield skip(why or OFFLINE)
        else:
            yield from look(subject, asked)

    return run


@if_asked
def accepted(subject: Subject, asked: Asked) -> Iterator[Finding]:
    """Whether Conductor takes what is sent."""
    error = asked.error
    if isinstance(error, AuthenticationError):
        step = error.hint
        if subject.settings.issuer is not None and subject.settings.token is None:
            step = f"Type `{login_command(subject.settings)}`."
        yield failed(error, step)
    elif isinstance(asked.user_error, NotFoundError) and asked.user is None:
        yield warn("Conductor does not know this user", NOT_REGISTERED)
    else:
        nobody = "nobody in particular" if _as_nobody(subject) else "these credentials"
        yield ok(f"Conductor takes {nobody}")


@if_asked
def organization(subject: Subject, asked: Asked) -> Iterator[Finding]:
    settings = subject.settings
    asked_for, user = asked.organization or settings.known_organization, asked.user
    if user is not None and settings.organization not in (None, user.org_name):
        yield fail(
            f"{settings.organization} is asked for, but {user.name} is of {user.org_name}",
            "Set DBOS_ORG, or `org` of the profile, to the user's; or log in as somebody else.",
            organization=settings.organization,
            of_the_user=user.org_name,
        )
    elif isinstance(asked.error, NotFoundError):
        step = "Set DBOS_ORG to the organization that the credentials are of."
        yield failed(asked.error, step, organization=asked_for)
    elif user is not None and user.subscription_plan == "past_limit":
        yield fail(
            f"{user.org_name} is past the limit of its plan: Conductor refuses its requests",
            "Its administrator changes the plan at the DBOS console.",
            organization=user.org_name,
        )
    elif asked_for is None or (user is None and asked.applications is None):
        yield skip("it was not told")
    else:
        plan = None if user is None else user.subscription_plan
        yield ok(
            f"{asked_for}{f' (plan {plan})' if plan else ''}", organization=asked_for, plan=plan
        )


@if_asked
def permissions(subject: Subject, asked: Asked) -> Iterator[Finding]:
    settings = subject.settings
    role = None if asked.user is None else asked.user.role
    if role is not None:
        may = {READ: READ in role.permissions, WRITE: WRITE in role.permissions}
        lacks = [each for each, granted in may.items() if not granted]
        facts: dict[str, Fact] = {"role": role.name, "read": may[READ], "write": may[WRITE]}
        ask = "An administrator of the organization grants a role that has it."
        if not may[READ]:
            told = f"the role {role.name} lacks {READ}: {REFUSED_WITHOUT[READ]}"
            yield fail(told, ask, **facts)
        elif lacks:
            if settings.read_only:
                yield ok(f"the role {role.name} may read, and more is not asked for", **facts)
            else:
                told = f"the role {role.name} lacks {WRITE}: {REFUSED_WITHOUT[WRITE]}"
                yield warn(f"{told}; all else works", ask, **facts)
        else:
            yield ok(f"the role {role.name} may read and command", **facts)
    elif isinstance(asked.error, PermissionDeniedError):
        yield failed(asked.error, read=False)
    elif asked.applications is not None:
        unknown = "whether it may command shows when it does"
        free = _as_nobody(subject)
        yield ok("everybody may read and command" if free else f"it may read; {unknown}", read=True)
    else:
        yield skip("it was not told")


def _as_nobody(subject: Subject) -> bool:
    account = subject.account
    return (
        isinstance(account.identity, FixedIdentity)
        and account.identity.organization() is not None
        and subject.settings.token is None
    )


def _not_asked(subject: Subject) -> str | None:
    """Why Conductor was not asked as whoever it is."""
    settings: Settings = subject.settings
    if settings.is_local:
        return "a system database has none"
    asked = subject.asked
    if asked is None:
        return OFFLINE
    if not asked.is_conductor:
        return "there is no answer of Conductor's"
    account = subject.account
    if account.error is not None:
        what = "DBOS_TOKEN" if settings.token is not None else "the login"
        missing = settings.token is None and account.login is None
        return "nobody is logged in" if missing else f"{what} cannot be used"
    if account.ended(subject.now):
        return f"to ask would renew the login: `{_renewing(settings)}` does, and tells it"
    return None


def _renewing(settings: Settings) -> str:
    return f"dbos-mcp whoami{f' --profile {settings.profile}' if settings.profile else ''}"
