"""From a name to an answer of Conductor's: where the way ends, and why."""

from collections.abc import Iterator

from dbos_mcp.conductor.wire import Fault
from dbos_mcp.doctor.asking import NAME_SECONDS, Asked
from dbos_mcp.doctor.finding import Finding, fail, failed, ok, skip
from dbos_mcp.doctor.subject import Subject
from dbos_mcp.errors import UnavailableError

OFFLINE = "--offline: nothing is sent"


def name(subject: Subject) -> Iterator[Finding]:
    if subject.settings.is_local:
        yield skip("a system database is read directly")
        return
    if (asked := subject.asked) is None:
        yield skip(OFFLINE)
        return
    host = asked.host if asked.proxy is None else asked.proxy.host or "the proxy"
    whose = "" if asked.proxy is None else f" (the proxy's, by {asked.proxy.variable})"
    if asked.addresses:
        first, *others = asked.addresses
        more = f" and {len(others)} more" if others else ""
        if first == host:
            yield ok(f"{host} is an address{whose}", host=host, addresses=list(asked.addresses))
        else:
            yield ok(f"{host} is {first}{more}{whose}", host=host, addresses=list(asked.addresses))
    elif asked.proxy is not None and asked.proxy.host is None:
        yield skip("it cannot be told which proxy is meant")
    elif asked.fault is Fault.NAME:
        yield fail(
            f"the name {host} is not found{whose}",
            f"{_check_the_setting(subject, asked)} A VPN that is off hides names, too;"
            f" `nslookup {host}` asks again.",
            host=host,
            fault=asked.fault,
        )
    else:
        yield fail(
            f"nobody said within {NAME_SECONDS:g} s where {host} is{whose}",
            f"Check that this machine is on a network: `nslookup {host}` asks again.",
            host=host,
            fault="timeout",
        )


def connection(subject: Subject) -> Iterator[Finding]:
    settings = subject.settings
    if settings.is_local:
        yield skip("a system database is read directly")
        return
    if (asked := subject.asked) is None:
        yield skip(OFFLINE)
        return
    if asked.requests == 0 and asked.error is not None:
        if asked.fault is None:  # its certificates or its proxy cannot be used
            yield failed(asked.error, fault="settings")
        else:
            yield skip("its name is not found")
        return
    if asked.fault is not None:
        yield _broken(subject, asked, asked.fault)
        return
    how = "TLS" if settings.address.startswith("https") else "plain HTTP"
    through = "" if asked.proxy is None else f" through the proxy {asked.proxy}"
    took = "" if asked.milliseconds is None else f" after {asked.milliseconds} ms"
    yield ok(
        f"{how} to {asked.host}:{asked.port}{through} answers{took}",
        host=asked.host,
        port=asked.port,
        tls=how == "TLS",
        proxy=None if asked.proxy is None else str(asked.proxy),
        milliseconds=asked.milliseconds,
    )


def _broken(subject: Subject, asked: Asked, fault: Fault) -> Finding:
    url = subject.settings.address
    place = f"{asked.host}:{asked.port}"
    proxy = asked.proxy
    if fault is Fault.TIMEOUT and asked.is_connected:
        fault = Fault.NOT_TLS
    check = _check_the_setting(subject, asked)
    try_it = f"`curl -v --max-time 5 {url}/` shows the same."
    message, step = {
        Fault.NAME: (f"the name {asked.host} is not found", check),
        Fault.REFUSED: (
            f"nothing listens at {place}: the connection is refused",
            f"Start Conductor there. {check} {try_it}",
        ),
        Fault.NO_ROUTE: (
            f"there is no route from this machine to {place}",
            f"Connect to the network, or the VPN, that it is in. {try_it}",
        ),
        Fault.TIMEOUT: (
            f"{place} does not answer at all: no connection within 5 s",
            f"A firewall drops it, or a VPN is off. {try_it}",
        ),
        Fault.SILENT: (
            f"{place} takes the connection, and gives no answer within 5 s",
            f"Look at Conductor's own log, or at what stands before it. {try_it}",
        ),
        Fault.BROKEN: (
            f"{place} takes the connection, and ends it without an answer of HTTP",
            f"Something else may listen there, or it wants https. {check} {try_it}",
        ),
        Fault.NOT_TLS: (
            f"{place} does not speak TLS as it should",
            f"Should it be http://? Correct {_setting(subject)}. {try_it}",
        ),
        Fault.EXPIRED: (
            f"the certificate of {place} has expired",
            "Whoever runs it renews the certificate. If it has not: `date` shows this machine's"
            " clock.",
        ),
        Fault.NOT_YET: (
            f"the certificate of {place} is not valid yet",
            "Set this machine's clock, which `date` shows: it may be behind.",
        ),
        Fault.OTHER_HOST: (
            f"the certificate of {place} is one of another host",
            f"Correct {_setting(subject)} to the name that the certificate is for. {try_it}",
        ),
        Fault.UNTRUSTED: (
            f"the certificate of {place} is of an authority that is not trusted here",
            "Name the authority's certificate: `export SSL_CERT_FILE=/path/to/ca.pem`. A proxy"
            " that reads along has one of its own, too.",
        ),
        Fault.PROXY: (f"the proxy {proxy} refuses to connect to {place}", ""),
    }[fault]
    if proxy is not None:
        way = f"`export NO_PROXY={asked.host}` goes past it."
        if fault in (Fault.NAME, Fault.REFUSED, Fault.NO_ROUTE, Fault.TIMEOUT):
            message = f"the proxy {proxy}, cannot be reached ({fault})"
            step = f"Correct {proxy.variable}, or: {way}"
        elif fault is Fault.PROXY:
            step = f"Its password or its rules may be at fault: correct {proxy.variable}, or: {way}"
        else:
            message, step = f"{message}, through the proxy {proxy}", f"{step} {way}"
    said = "" if asked.error is None else str(asked.error)
    return fail(message, step, fault=fault, said=said, host=asked.host, port=asked.port)


def conductor(subject: Subject) -> Iterator[Finding]:
    """Whether what answers is one, of an image that has API v2."""
    if (asked := subject.asked) is None:
        yield skip(OFFLINE)
        return
    if subject.settings.is_local:
        yield _database(asked)
        return
    if not asked.requests or asked.fault is not None:
        yield skip("there is no answer")
    elif asked.is_conductor:
        yield ok("it speaks API v2", requests=asked.requests)
    else:
        assert asked.error is not None
        yield failed(asked.error)


def _database(asked: Asked) -> Finding:
    error, version = asked.error, asked.schema_version
    if error is None:
        schema = "" if version is None else f"; its schema is DBOS's number {version}"
        return ok(f"the system database answers{schema}", schema=version)
    step = "Start that database, or correct DBOS_SYSTEM_DATABASE_URL."
    if isinstance(error, UnavailableError):  # the local Conductor's words around it say little
        because = (error.message.partition(": ")[2] or error.message).rstrip("?.")
        return fail(f"the system database does not answer: {because}", step)
    return failed(error, error.hint or step)


def _check_the_setting(subject: Subject, asked: Asked) -> str:
    if asked.proxy is not None:
        return f"Check {asked.proxy.variable}."
    if subject.settings.is_managed:
        return "Check that this machine is on a network."
    return f"If it is elsewhere, correct {_setting(subject)}."


def _setting(subject: Subject) -> str:
    """What says where Conductor is."""
    profile = subject.settings.profile
    if subject.environ.get("DBOS_URL") or profile is None:
        return "DBOS_URL"
    return f"`url` of the profile {profile}"
