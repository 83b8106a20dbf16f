"""What can be set, and the only reader of the environment.

A flag of the command line wins over the environment, the environment over dbosctl's profile, and
that over the default. The shared names (`DBOS_URL`, `DBOS_ORG`, `DBOS_APP`, `DBOS_TOKEN`,
`DBOS_PROFILE`) mean what they mean to dbosctl, but for this: a profile that nobody named is not
mixed with another Conductor's address. Its organization and login would be the wrong ones.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from dbos_mcp.domain import LogLevel as LogLevel
from dbos_mcp.errors import UsageError
from dbos_mcp.profiles import config_folder, load_profiles

MANAGED_URL = "https://cloud.dbos.dev/conductor"


@dataclass(frozen=True)
class Issuer:
    """Who signs the tokens, and as which public client (without a secret) we ask."""

    url: str
    client_id: str
    audience: str | None
    scope: str = "openid offline_access"


MANAGED_ISSUER = Issuer(
    "https://login.dbos.dev/", "6p7Sjxf13cyLMkdwn14MxlH7JdhILled", "dbos-cloud-api"
)
MANAGED_DOMAIN = "cloud.dbos.dev"
OTHER_DOMAINS_ISSUER = Issuer(
    "https://dbos-inc.us.auth0.com/", "G38fLmVErczEo9ioCFjVIHea6yd0qMZu", "dbos-cloud-api"
)
"""Of DBOS's own deployments beside production, which dbosctl's profiles name by their domain."""
LOCAL_ORGANIZATION = "local"
DAY_MS = 86_400_000


class Payloads(StrEnum):
    """Which display texts of workflows and steps the cache keeps; each holds those before it."""

    NONE = "none"
    ERRORS = "errors"
    """The errors of failed workflows and of steps."""
    FAILED = "failed"
    """Also what failed workflows and their steps were given and returned."""
    ALL = "all"
    """Of every workflow and every step."""


class Redact(StrEnum):
    """Whether secrets are taken out of what is stored."""

    DEFAULT = "default"
    OFF = "off"


class Toolset(StrEnum):
    """Tools that are switched on together."""

    CORE = "core"
    HISTORY = "history"
    POSTMORTEM = "postmortem"
    SQL = "sql"
    SYNC = "sync"
    ADMIN = "admin"


DEFAULT_TOOLSETS = frozenset(Toolset) - {Toolset.ADMIN}


class Settings(BaseModel):
    # An input may hold a password.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    home: Path = Field(default_factory=Path.home)
    profile: str | None = Field(None, description="Profile of dbosctl's")
    dbosctl_folder: Path | None = Field(None, description="Where dbosctl keeps its own login to it")
    url: str | None = Field(None, repr=False, description="Base URL of a self-hosted Conductor")
    organization: str | None = Field(None, description="Organization on Conductor")
    token: SecretStr | None = Field(None, description="API key or access token")
    auth: Literal["bearer", "none"] | None = Field(None, description="Whether Conductor wants one")
    issuer_url: str | None = Field(None, description="OpenID issuer of a self-hosted Conductor")
    client_id: str | None = Field(None, description="Public client there, with the device grant")
    audience: str | None = Field(None, description="Audience of the tokens, if it wants one")
    application_name: str | None = Field(None, description="Application of the system database")
    system_database_url: SecretStr | None = Field(
        None, description="A DBOS system database to read in place of a Conductor"
    )
    cache: Path | None = Field(None, description="The cache file")
    history: int | None = Field(30, ge=1, description="Days to mirror; None: all")
    payloads: Payloads = Field(Payloads.ERRORS, description="Display texts that the cache keeps")
    redact: Redact = Field(Redact.DEFAULT, description="Take secrets out of what is stored")
    redact_patterns: Path | None = Field(None, description="A file of what else is secret")
    log_level: LogLevel = LogLevel.WARNING
    offline: bool = Field(False, description="Answer from the cache, send nothing")
    toolsets: frozenset[Toolset] = Field(DEFAULT_TOOLSETS, description="Tools to offer")
    read_only: bool = Field(False, description="Offer and send no command")
    http_issuer: str | None = Field(None, description="OAuth issuer of the server over HTTP")
    http_audience: str | None = Field(None, description="Audience of its tokens")
    http_read_scope: str = Field("dbos-mcp:read", description="Scope that may ask")
    http_full_scope: str = Field("dbos-mcp:full", description="Scope that may command, too")
    http_url: str | None = Field(None, description="How clients reach the server over HTTP")

    @field_validator("history", mode="before")
    @classmethod
    def _days(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lower() == "all":
            return None
        days = re.fullmatch(r"(\d{1,5})d?", value.strip())
        if days is None:
            raise ValueError("give a number of days (30), or `all`")
        return int(days[1])

    @field_validator("toolsets", mode="before")
    @classmethod
    def _toolsets(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        groups = {str(toolset): {toolset} for toolset in Toolset}
        groups |= {"default": set(DEFAULT_TOOLSETS), "all": set(Toolset)}
        names = [name.strip().lower() for name in value.split(",")]
        return set().union(*(groups[_known(name, "a toolset", groups)] for name in names))

    @field_validator("read_only", mode="before")
    @classmethod
    def _true_or_false(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return _known(value.strip().lower(), "true or false", _BOOLEANS) in _TRUE

    @field_validator("url")
    @classmethod
    def _http_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("give the base URL of a Conductor, as http://localhost:8090")
        if _is_managed(value) and parts.scheme != "https":
            raise ValueError("DBOS-managed Conductor is reached by https only")
        return value.rstrip("/")

    @field_validator("redact_patterns")
    @classmethod
    def _file(cls, value: Path | None) -> Path | None:
        if value == Path():
            raise ValueError("name a file, or unset it")
        return value

    @model_validator(mode="after")
    def _patterns_or_nothing(self) -> "Settings":
        if self.redact is Redact.OFF and self.redact_patterns is not None:
            raise PydanticCustomError(
                "redact_patterns",
                "DBOS_MCP_REDACT=off takes nothing out, so DBOS_MCP_REDACT_PATTERNS cannot be set"
                " beside it",
            )
        return self

    @model_validator(mode="after")
    def _issuer_and_client(self) -> "Settings":
        if self.issuer_url is not None and self.client_id is None and self.token is None:
            raise PydanticCustomError(
                "client_id",
                "DBOS_MCP_CLIENT_ID is missing: give the issuer's public client id beside the"
                " issuer; whoever runs that Conductor knows it",
            )
        return self

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str], *, profile: str | None = None, **flags: Any
    ) -> "Settings":
        """Settings from an environment, overridden by flags that are not None.

        Raises:
            UsageError: a value that cannot be used; the message names the variable.
        """
        _refuse_misspelt_limits(environ)
        given = {
            field: environ[variable]
            for variable, field in ENVIRONMENT.items()
            if environ.get(variable) or (field in LIMITS and variable in environ)
        }
        given |= {name: flag for name, flag in flags.items() if flag is not None}
        if profile is not None:
            given["profile"] = profile
        values = {"home": _home(environ)} | _of_profile(environ, given) | given
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            field = str(fault["loc"][0]) if fault["loc"] else ""
            names = [variable for variable, name in ENVIRONMENT.items() if name == field]
            subject = names[0] if names else field
            if field in values and field not in given:
                subject += f" (of dbosctl's profile {values['profile']})"
            wrong = fault["msg"].removeprefix("Value error, ")
            said = f"{subject} cannot be used: {wrong}" if field else wrong
            raise UsageError(f"{said}.") from error

    @property
    def is_local(self) -> bool:
        return self.system_database_url is not None

    @property
    def is_managed(self) -> bool:
        return not self.is_local and (self.url is None or _is_managed(self.url))

    @property
    def wants_login(self) -> bool:
        """Whether Conductor is asked as a user who has logged in, unless there is a token."""
        if self.is_local or self.auth is not None:
            return not self.is_local and self.auth == "bearer"
        return self.issuer is not None

    @property
    def known_organization(self) -> str | None:
        """Whose workflows, as far as that is known without a login."""
        if self.is_local or (self.organization is None and not self.wants_login):
            return LOCAL_ORGANIZATION
        return self.organization

    @property
    def issuer(self) -> Issuer | None:
        """Where to log in; None: nowhere, as far as we know."""
        if self.issuer_url is not None and self.client_id is not None:
            return Issuer(self.issuer_url, self.client_id, self.audience)
        return MANAGED_ISSUER if self.is_managed else None

    @property
    def base_url(self) -> str:
        """Where API v2 is: `/v2/…` follows it."""
        if self.is_local:
            return "http://local-conductor"
        return self.url or MANAGED_URL

    @property
    def address(self) -> str:
        """The base URL, fit to be shown and kept: without a password."""
        parts = urlsplit(self.base_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def history_ms(self) -> int | None:
        return None if self.history is None else self.history * DAY_MS

    @property
    def folder(self) -> Path:
        return self.home / ".dbos-mcp"

    @property
    def credentials_path(self) -> Path:
        return self.folder / "credentials"

    @property
    def tokens_path(self) -> Path:
        return self.folder / "tokens.json"

    def cache_path(self, organization: str) -> Path:
        """One cache file for each target and organization, unless one is named."""
        if self.cache is not None:
            return self.cache
        if self.system_database_url is not None:
            url = self.system_database_url.get_secret_value()
            target = f"local-{blake2b(url.encode(), digest_size=4).hexdigest()}"
        else:
            target = self.address.partition("://")[2].removesuffix("/conductor")
        name = re.sub(r"[^a-z0-9.-]+", "-", f"{target}-{organization}".lower())
        return self.folder / f"{name.strip('.-')}.sqlite"


ENVIRONMENT = {
    "DBOS_PROFILE": "profile",
    "DBOS_URL": "url",
    "DBOS_ORG": "organization",
    "DBOS_TOKEN": "token",
    "DBOS_MCP_ISSUER": "issuer_url",
    "DBOS_MCP_CLIENT_ID": "client_id",
    "DBOS_MCP_AUDIENCE": "audience",
    "DBOS_APP": "application_name",
    "DBOS_SYSTEM_DATABASE_URL": "system_database_url",
    "DBOS_MCP_CACHE": "cache",
    "DBOS_MCP_HISTORY": "history",
    "DBOS_MCP_PAYLOADS": "payloads",
    "DBOS_MCP_REDACT": "redact",
    "DBOS_MCP_REDACT_PATTERNS": "redact_patterns",
    "DBOS_MCP_LOG_LEVEL": "log_level",
    "DBOS_MCP_TOOLSETS": "toolsets",
    "DBOS_MCP_READ_ONLY": "read_only",
    "DBOS_MCP_HTTP_ISSUER": "http_issuer",
    "DBOS_MCP_HTTP_AUDIENCE": "http_audience",
    "DBOS_MCP_HTTP_READ_SCOPE": "http_read_scope",
    "DBOS_MCP_HTTP_FULL_SCOPE": "http_full_scope",
    "DBOS_MCP_HTTP_URL": "http_url",
}

LIMITS = frozenset({"toolsets", "read_only", "redact_patterns"})
"""What is set to allow less: a slip there, or nothing in it, must not allow more."""

_TRUE = ("true", "yes", "on", "1")
_BOOLEANS = (*_TRUE, "false", "no", "off", "0")


ONE_TARGETS_OWN = frozenset(
    {
        "url",
        "organization",
        "token",
        "issuer_url",
        "client_id",
        "audience",
        "system_database_url",
        "cache",
    }
)
"""What several profiles cannot have in common."""

SEVERAL = "DBOS_MCP_PROFILES"


def targets_from_env(
    environ: Mapping[str, str], *, profiles: Sequence[str] = (), **flags: Any
) -> tuple[Settings, ...]:
    """The settings of each target: of the profiles that are named, `all` for all of them, or of
    the only one. The first is meant where none is named.

    Raises:
        UsageError: see `Settings.from_env`; or a setting that only one of several can have.
    """
    in_environ = () if environ.get("DBOS_PROFILE") else environ.get(SEVERAL, "").split(",")
    names = list(dict.fromkeys(filter(None, map(str.strip, profiles or in_environ))))
    if names == ["all"]:
        found = load_profiles(config_folder(environ, _home(environ)))
        for damaged in found.damaged:
            found.get(damaged)  # it says why; one of all is not left out without a word
        names = sorted(found.profiles, key=lambda name: (name != found.current, name))
    if len(names) <= 1:
        return (Settings.from_env(environ, profile=next(iter(names), None), **flags),)
    for variable, field in ENVIRONMENT.items():
        if field in ONE_TARGETS_OWN and (environ.get(variable) or flags.get(field) is not None):
            raise UsageError(
                f"{variable} is of one Conductor, and cannot be set for several profiles.",
                hint=f"Unset it, or name one profile: {', '.join(names)}.",
            )
    return tuple(Settings.from_env(environ, profile=name, **flags) for name in names)


def _of_profile(environ: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the profile says that is named, or the current one where none is and no address."""
    name = given.get("profile")
    if name is None and given.keys() & {"url", "system_database_url"}:
        return {}
    folder = config_folder(environ, _home(environ))
    found = load_profiles(folder)
    name = name or found.current
    if name is None:
        return {}
    profile = found.get(name)
    values: dict[str, Any] = {
        "profile": name,
        # Its login is for the profile's own address.
        "dbosctl_folder": None if "url" in given else folder,
        "url": profile.url,
        "auth": profile.auth,
        "organization": profile.org,
    }
    if profile.domain is not None:
        values["url"] = profile.url or f"https://{profile.domain}/conductor"
        values["auth"] = profile.auth or "bearer"
    oidc = profile.oidc
    if oidc is not None and oidc.issuer is not None:
        issuer, client_id, audience = oidc.issuer, oidc.client_id, oidc.audience
    elif profile.domain not in (None, MANAGED_DOMAIN):
        other = OTHER_DOMAINS_ISSUER
        issuer, client_id, audience = other.url, other.client_id, other.audience
    else:
        return values
    return values | {"issuer_url": issuer, "client_id": client_id, "audience": audience}


def _known(name: str, what: str, known: Iterable[str]) -> str:
    """The name, if it is known; else an error that names the nearest."""
    if name not in (names := list(known)):
        near = difflib.get_close_matches(name, names, n=1)
        raise PydanticCustomError(
            "unknown_name",
            "{name} is not {what}{hint} Give {known}",
            {
                "name": repr(name[:80]),
                "what": what,
                "hint": f"; did you mean {near[0]}?" if near else ".",
                "known": f"{', '.join(names[:-1])} or {names[-1]}",
            },
        )
    return name


def _refuse_misspelt_limits(environ: Mapping[str, str]) -> None:
    """Raises UsageError for a variable that is nearly the name of one of `LIMITS`."""
    prefix = "DBOS_MCP_"
    names = [
        variable.removeprefix(prefix) for variable, field in ENVIRONMENT.items() if field in LIMITS
    ]
    for variable in environ:
        if not variable.upper().startswith(prefix) or variable in (*ENVIRONMENT, SEVERAL):
            continue
        near = difflib.get_close_matches(variable.upper().removeprefix(prefix), names, cutoff=0.75)
        if near:
            raise UsageError(
                f"{variable} is not a setting: did you mean {prefix}{near[0]}?",
                hint="Rename it, or unset it.",
            )


def _home(environ: Mapping[str, str]) -> Path:
    if environ.get("HOME"):
        return Path(environ["HOME"])
    try:
        return Path.home()
    except RuntimeError as error:
        raise UsageError(
            "This user has no home folder, and HOME is not set.",
            hint="Set HOME to a folder: the cache, logins and profiles are looked for below it.",
        ) from error


def _is_managed(url: str) -> bool:
    host = (urlsplit(url).hostname or "").removesuffix(".")
    return host.lower() == MANAGED_DOMAIN
