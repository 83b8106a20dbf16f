"""The table of all checks, and how they are run."""

from collections.abc import Iterator, Mapping, Sequence

from dbos_mcp.doctor import account, cache, conductor, network, program, sync, target
from dbos_mcp.doctor.finding import Check, Finding, Status, Told, fail, failed
from dbos_mcp.doctor.later import LateError
from dbos_mcp.doctor.subject import Subject
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.settings import Settings

SETTINGS = Check("target.settings", target.settings_apply)
CHECKS = (
    Check("target.conductor", target.target),
    SETTINGS,
    Check("target.extras", target.extras),
    Check("network.name", network.name),
    Check("network.connection", network.connection),
    Check("network.conductor", network.conductor),
    Check("account.login", account.login),
    Check("account.file", account.file),
    Check("account.accepted", account.accepted),
    Check("account.organization", account.organization),
    Check("account.permissions", account.permissions),
    Check("conductor.applications", conductor.applications),
    Check("conductor.clock", conductor.clock),
    Check("cache.file", cache.file),
    Check("cache.disk", cache.disk),
    Check("cache.schema", cache.schema_version),
    Check("cache.integrity", cache.integrity),
    Check("sync.process", sync.process),
    Check("sync.mirror", sync.mirror),
    Check("sync.coverage", sync.coverage),
    Check("program.version", program.version, of_the_program=True),
    Check("program.python", program.python, of_the_program=True),
    Check("program.sqlite", program.sqlite, of_the_program=True),
)
"""In the order in which they are told: what comes first may be why what follows is skipped."""

REPORT = "Please report this, with the line: it is a fault of dbos-mcp's."


def examine(
    targets: Sequence[Settings],
    environ: Mapping[str, str],
    *,
    named: bool = False,
    deep: bool = False,
) -> Iterator[Told]:
    """What every check finds. All that takes time has begun before the first of them is told."""
    subjects = [Subject(each, environ, named=named, deep=deep) for each in targets]
    for subject in subjects:
        for check in CHECKS:
            if not check.of_the_program:
                for finding in run(check, subject):
                    yield Told(check, subject.settings.profile, finding)
    yield from _of_the_program()


def examine_without(error: DbosMcpError) -> Iterator[Told]:
    """Of settings that cannot be used, so that there is no target to look at."""
    yield Told(SETTINGS, None, failed(error, error.hint or "Correct what it names."))
    yield from _of_the_program()


def _of_the_program() -> Iterator[Told]:
    for check in CHECKS:
        if check.of_the_program:
            for finding in run(check):
                yield Told(check, None, finding)


def run(check: Check, *subject: Subject) -> Iterator[Finding]:
    """A check that breaks is a finding as well."""
    try:
        yield from check.look(*subject)
    except LateError:
        yield Finding(
            Status.FAIL,
            "it did not come to an end in time, and was given up",
            "Try again; if it stays so, look for a disk or a network that does not answer.",
        )
    except DbosMcpError as error:
        yield failed(error)
    except Exception as error:  # noqa: BLE001 # whatever it is, the others are still of use
        # Its text may hold anything, a secret too.
        yield fail(f"the check broke ({type(error).__name__})", REPORT)
