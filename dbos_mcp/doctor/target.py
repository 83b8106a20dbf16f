"""Which target it is, what chose it, and settings that say something else than they do."""

import difflib
import importlib.util
from collections.abc import Iterator
from urllib.parse import urlsplit

from dbos_mcp.doctor.finding import Fact, Finding, fail, failed, ok, warn
from dbos_mcp.doctor.subject import Subject
from dbos_mcp.errors import UsageError
from dbos_mcp.runtime import rules_of
from dbos_mcp.settings import ENVIRONMENT, LIMITS, SEVERAL, Settings, Toolset

_OF_A_LOGIN = ("DBOS_MCP_ISSUER", "DBOS_MCP_CLIENT_ID", "DBOS_MCP_AUDIENCE")
_OF_A_TEAM = (
    "DBOS_MCP_HTTP_AUDIENCE",
    "DBOS_MCP_HTTP_READ_SCOPE",
    "DBOS_MCP_HTTP_FULL_SCOPE",
)


def target(subject: Subject) -> Iterator[Finding]:
    settings = subject.settings
    by = _chosen_by(subject)
    if settings.is_local:
        what = f"the system database {_shown_database(settings)}"
    elif settings.is_managed:
        what = f"DBOS-managed Conductor, {settings.address}"
    else:
        what = f"self-hosted Conductor, {settings.address}"
    offline = "; --offline: nothing is sent to it" if settings.offline else ""
    yield ok(
        f"{what} ({by}){offline}",
        kind=_kind(settings),
        address=_shown_database(settings) if settings.is_local else settings.address,
        profile=settings.profile,
        chosen_by=by,
        offline=settings.offline,
    )


def _kind(settings: Settings) -> str:
    if settings.is_local:
        return "local"
    return "managed" if settings.is_managed else "self-hosted"


def _chosen_by(subject: Subject) -> str:
    environ, settings = subject.environ, subject.settings
    if settings.is_local:
        return "by DBOS_SYSTEM_DATABASE_URL"
    by = "the default"
    if settings.profile is not None:
        variable = "DBOS_PROFILE" if environ.get("DBOS_PROFILE") else SEVERAL
        if subject.named:
            by = f"by --profile {settings.profile}"
        elif environ.get(variable):
            by = f"by the profile {settings.profile}, which {variable} names"
        else:
            by = f"by the profile {settings.profile}, dbosctl's current one"
    if environ.get("DBOS_URL"):
        return "by DBOS_URL" if settings.profile is None else f"by DBOS_URL, and else {by}"
    return by


def _shown_database(settings: Settings) -> str:
    """Where it is, without user, password and options."""
    assert settings.system_database_url is not None
    parts = urlsplit(settings.system_database_url.get_secret_value())
    if parts.scheme.startswith("sqlite"):
        return f"{parts.path.removeprefix('/') or 'in memory'} (SQLite)"
    place = parts.netloc.rpartition("@")[2] or "this machine"
    return f"{place}{parts.path} ({parts.scheme.partition('+')[0]})"


def settings_apply(subject: Subject) -> Iterator[Finding]:
    """Whether all that is set counts for something."""
    found = list(_without_effect(subject))
    names = [variable for variable in (*ENVIRONMENT, SEVERAL) if variable in subject.environ]
    if not found:
        told = "no variable is set: all defaults"
        if names:
            told = f"{_listed(names)} {'is' if len(names) == 1 else 'are'} set"
        yield ok(told, variables=names)
    for message, next_step in found:
        yield warn(message, next_step)


def _without_effect(subject: Subject) -> Iterator[tuple[str, str]]:
    settings, environ = subject.settings, subject.environ
    given = {name for name in (*ENVIRONMENT, SEVERAL) if environ.get(name)}

    def idle(names: tuple[str, ...], why: str) -> Iterator[tuple[str, str]]:
        if idling := [name for name in names if name in given]:
            are = "has" if len(idling) == 1 else "have"
            yield f"{_listed(idling)} {are} no effect: {why}", f"Type `unset {' '.join(idling)}`."

    if settings.is_local:
        yield from idle(
            ("DBOS_URL", "DBOS_ORG", "DBOS_TOKEN", "DBOS_PROFILE", *_OF_A_LOGIN),
            "DBOS_SYSTEM_DATABASE_URL names a database, which is read without a Conductor",
        )
    else:
        yield from idle(("DBOS_APP",), "it is of a DBOS_SYSTEM_DATABASE_URL, which is not set")
        if settings.token is not None:
            yield from idle(_OF_A_LOGIN, "DBOS_TOKEN says who asks, and nobody logs in")
        elif settings.auth == "none":
            yield from idle(_OF_A_LOGIN, "the profile says `auth: none`, so nobody logs in")
        elif settings.issuer_url is None:
            yield from idle(_OF_A_LOGIN[1:], "DBOS_MCP_ISSUER is not set")
        if settings.profile is not None and "DBOS_URL" in given:
            yield (
                f"DBOS_URL takes the place of the address of the profile {settings.profile},"
                " whose dbosctl login is not used then",
                "Type `unset DBOS_URL`, or choose no profile.",
            )
    if SEVERAL in given and (subject.named or "DBOS_PROFILE" in given):
        by = "--profile" if subject.named else "DBOS_PROFILE"
        yield f"{SEVERAL} has no effect: {by} is given", f"Type `unset {SEVERAL}`."
    if settings.http_issuer is None:
        yield from idle(_OF_A_TEAM, "DBOS_MCP_HTTP_ISSUER is not set")
    if settings.read_only and Toolset.ADMIN in settings.toolsets:
        yield (
            "The toolset admin is asked for, but a server that is read-only sends no command",
            "Leave out DBOS_MCP_READ_ONLY and --read-only, or the toolset.",
        )
    empty = [
        name
        for name, field in ENVIRONMENT.items()
        if environ.get(name) == "" and field not in LIMITS
    ]
    if empty:
        yield (
            f"{_listed(empty)} set to nothing, which is as if not set",
            (f"Give a value, or type `unset {' '.join(empty)}`."),
        )
    known = [*ENVIRONMENT, SEVERAL]
    for name in sorted(environ):
        if name.startswith("DBOS_MCP_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            mean = f": did you mean {near[0]}?" if near else ""
            yield f"{name} is not a setting{mean}", "Rename it, or unset it."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def extras(subject: Subject) -> Iterator[Finding]:
    """Those that a setting wants."""
    settings = subject.settings
    has_local = importlib.util.find_spec("dbos") is not None
    has_patterns = importlib.util.find_spec("re2") is not None
    facts: dict[str, Fact] = {"local": has_local, "patterns": has_patterns}
    is_fine = True
    if settings.is_local and not has_local:
        is_fine = False
        yield fail(
            "DBOS_SYSTEM_DATABASE_URL needs the extra `local`, which is not installed",
            "Type `pip install 'dbos-mcp[local]'`, or start it as `uvx --from 'dbos-mcp[local]'"
            " dbos-mcp`.",
            **facts,
        )
    try:
        rules_of(settings)
    except UsageError as error:
        is_fine = False
        yield failed(
            error,
            "Type `pip install 'dbos-mcp[patterns]'`."
            if not has_patterns
            else "Correct the file that DBOS_MCP_REDACT_PATTERNS names, or unset it.",
            **facts,
        )
    if is_fine:
        installed = [name for name in ("local", "patterns") if facts[name]]
        yield ok(f"{', '.join(installed) or 'none'} installed; no setting wants another", **facts)
