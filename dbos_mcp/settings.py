"""What can be set, and the only reader of the environment.

A flag of the command line wins over the environment, the environment over the default. The shared
names (`DBOS_URL`, `DBOS_ORG`, `DBOS_APP`, `DBOS_TOKEN`) mean what they mean to dbosctl.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from dbos_mcp.errors import UsageError

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


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path = Field(default_factory=Path.home)
    url: str | None = Field(None, repr=False, description="Base URL of a self-hosted Conductor")
    organization: str | None = Field(None, description="Organization on Conductor")
    token: SecretStr | None = Field(None, description="API key or access token")
    application_name: str | None = Field(None, description="Application of the system database")
    system_database_url: SecretStr | None = Field(
        None, description="A DBOS system database to read in place of a Conductor"
    )
    cache: Path | None = Field(None, description="The cache file")
    history: int | None = Field(30, ge=1, description="Days to mirror; None: all")
    payloads: Payloads = Field(Payloads.ERRORS, description="Display texts that the cache keeps")
    log_level: LogLevel = LogLevel.WARNING
    offline: bool = Field(False, description="Answer from the cache, send nothing")

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

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **flags: Any) -> "Settings":
        """Settings from an environment, overridden by flags that are not None.

        Raises:
            UsageError: a value that cannot be used; the message names the variable.
        """
        values: dict[str, Any] = {
            field: environ[variable]
            for variable, field in ENVIRONMENT.items()
            if environ.get(variable)
        }
        if environ.get("HOME"):
            values["home"] = Path(environ["HOME"])
        values |= {name: flag for name, flag in flags.items() if flag is not None}
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            field = str(fault["loc"][0])
            names = [variable for variable, name in ENVIRONMENT.items() if name == field]
            raise UsageError(
                f"{names[0] if names else field} cannot be used: {fault['msg']}."
            ) from error

    @property
    def is_local(self) -> bool:
        return self.system_database_url is not None

    @property
    def is_managed(self) -> bool:
        return not self.is_local and (self.url is None or _is_managed(self.url))

    @property
    def base_url(self) -> str:
        """Where API v2 is: `/v2/…` follows it."""
        if self.is_local:
            return "http://local-conductor"
        return self.url or MANAGED_URL

    @property
    def history_ms(self) -> int | None:
        return None if self.history is None else self.history * DAY_MS

    @property
    def folder(self) -> Path:
        return self.home / ".dbos-mcp"

    @property
    def credentials_path(self) -> Path:
        return self.folder / "credentials"

    def cache_path(self, organization: str) -> Path:
        """One cache file for each target and organization, unless one is named."""
        if self.cache is not None:
            return self.cache
        if self.system_database_url is not None:
            url = self.system_database_url.get_secret_value()
            target = f"local-{blake2b(url.encode(), digest_size=4).hexdigest()}"
        else:
            parts = urlsplit(self.base_url)
            target = f"{parts.netloc.rpartition('@')[2]}{parts.path}".removesuffix("/conductor")
        name = re.sub(r"[^a-z0-9.-]+", "-", f"{target}-{organization}".lower())
        return self.folder / f"{name.strip('.-')}.sqlite"


ENVIRONMENT = {
    "DBOS_URL": "url",
    "DBOS_ORG": "organization",
    "DBOS_TOKEN": "token",
    "DBOS_APP": "application_name",
    "DBOS_SYSTEM_DATABASE_URL": "system_database_url",
    "DBOS_MCP_CACHE": "cache",
    "DBOS_MCP_HISTORY": "history",
    "DBOS_MCP_PAYLOADS": "payloads",
    "DBOS_MCP_LOG_LEVEL": "log_level",
}


def _is_managed(url: str) -> bool:
    host = (urlsplit(url).hostname or "").removesuffix(".")
    return host.lower() == "cloud.dbos.dev"
