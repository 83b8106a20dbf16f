"""Every error that is raised on purpose.

    DbosMcpError
    ├── NotFoundError              neither upstream nor in the cache
    ├── UsageError                 the caller's words: a bad time, status, id, setting
    ├── ConductorError
    │   ├── UnavailableError       away: refused, timed out, 502, 503, 504
    │   ├── AuthenticationError    401: log in
    │   ├── PermissionDeniedError  403
    │   ├── RateLimitError         429
    │   ├── RejectedError          400, 409, 422 …: it will not do what was asked
    │   └── ResponseError          an answer that is not the API's: HTML, half a document, no API v2
    ├── LoginError
    │   ├── LoginPendingError      the person has not approved yet
    │   ├── LoginExpiredError      the code is no longer valid
    │   └── LoginDeniedError       the person said no
    ├── StoreError
    │   ├── NotOurFileError        the cache path names some other file
    │   ├── SchemaTooNewError      written by a newer version
    │   └── UnknownEventError      an event kind that this version cannot read
    ├── InstallError               a program's configuration, which is left as it is
    └── QueryError
        ├── InvalidCursorError
        ├── SqlRejectedError       it is no statement that may be run here
        └── SqlStoppedError        it went beyond its memory
            └── SqlTimeoutError    it went beyond its time

They are translated once on the way in (`conductor/client.py`) and once on the way out
(`server/tools/define.py` to ToolError, `cli.py` to an exit code). In between they rise.
"""


class DbosMcpError(Exception):
    """What went wrong (`message`), what to do next (`hint`), and whether the same call may succeed
    later (`retryable`)."""

    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class NotFoundError(DbosMcpError):
    """Neither upstream nor in the cache."""

    exit_code = 4


class UsageError(DbosMcpError):
    """The caller's own words cannot be used."""

    exit_code = 2


class ConductorError(DbosMcpError):
    """Conductor, or the way to it, did not do what was asked.

    `outcome_unknown` is true when a command may have run although no answer came.
    """

    def __init__(self, message: str, *, hint: str = "", outcome_unknown: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.outcome_unknown = outcome_unknown


class UnavailableError(ConductorError):
    """Conductor or the application is away. It says nothing of what exists.

    `passing` is true when it may be over in a moment: a lost connection, a gateway's 502, or
    whatever the server gave a time for (`retry_after_seconds`).
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        outcome_unknown: bool = False,
        passing: bool = False,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint, outcome_unknown=outcome_unknown)
        self.passing = passing
        self.retry_after_seconds = retry_after_seconds


class AuthenticationError(ConductorError):
    """No credentials, or credentials that are not accepted."""

    exit_code = 3


class PermissionDeniedError(ConductorError):
    """The credentials do not allow this."""


class RateLimitError(ConductorError):
    """Too many requests; `retry_after_seconds` where the server said."""

    retryable = True
    passing = True

    def __init__(
        self, message: str, *, hint: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class RejectedError(ConductorError):
    """Conductor understood and refused."""


class ResponseError(ConductorError):
    """An answer that is not one of API v2."""


class LoginError(DbosMcpError):
    """The login did not come to an end."""

    exit_code = 3


class LoginPendingError(LoginError):
    """The person has not approved yet."""

    retryable = True


class LoginExpiredError(LoginError):
    """The code is no longer valid."""


class LoginDeniedError(LoginError):
    """The person said no."""


class StoreError(DbosMcpError):
    """The cache file cannot be used."""


class NotOurFileError(StoreError):
    """The path names a file that dbos-mcp did not write."""


class SchemaTooNewError(StoreError):
    """Written by a newer version of dbos-mcp."""


class UnknownEventError(StoreError):
    """The log holds an event kind that this version cannot read."""


class InstallError(DbosMcpError):
    """Another program's configuration cannot be changed; it was left as it is."""


class QueryError(DbosMcpError):
    """A question that cannot be answered as it was put."""

    exit_code = 2


class InvalidCursorError(QueryError):
    """A cursor that this server did not hand out, or of another question."""


class SqlRejectedError(QueryError):
    """SQL that is wrong, or that may not be run here."""


class SqlStoppedError(QueryError):
    """SQL that went beyond what it may use."""

    exit_code = 1


class SqlTimeoutError(SqlStoppedError):
    """SQL that went beyond its time."""
