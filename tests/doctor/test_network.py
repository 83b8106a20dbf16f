"""From a name to an answer: each way to fail is told from the others, by real sockets."""

import json
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme
from starlette.responses import JSONResponse

from dbos_mcp.doctor.finding import Status
from dbos_mcp.settings import Settings
from tests.doctor.looking import Found, look
from tests.faulty_server import (
    Fault,
    FaultyServer,
    answer_of,
    dripping,
    reset_after,
    says,
    serving,
    silence,
)
from tests.loopback import open_listener, served, url_of

AUTHORITY = trustme.CA()
PAST = datetime(2020, 1, 1, tzinfo=UTC)
JSON = {"content-type": "application/json"}


def target(url: str, home: Path) -> Settings:
    return Settings(home=home, url=url)


async def of_fault(fault: Fault, home: Path, tls: ssl.SSLContext | None = None) -> Found:
    async with serving(FaultyServer(fault=fault), tls) as server:
        return await look(target(server.url, home), environ={"DBOS_URL": server.url})


async def test_a_name_that_nobody_knows(tmp_path: Path) -> None:
    found = await look(target("https://conductor.nowhere.invalid", tmp_path))
    assert found.failing == ["network.name"]
    assert "conductor.nowhere.invalid is not found" in found.one("network.name").message
    assert "nslookup conductor.nowhere.invalid" in found.one("network.name").next_step
    assert found.one("network.connection").status is Status.SKIP
    assert found.exit_code == 1


async def test_a_port_where_nothing_listens(tmp_path: Path) -> None:
    with open_listener() as listener:
        url = url_of(listener)
    found = await look(target(url, tmp_path), environ={"DBOS_URL": url})
    connection = found.one("network.connection")
    assert found.failing == ["network.connection"]
    assert connection.facts["fault"] == "refused"
    assert f"curl -v --max-time 5 {url}/" in connection.next_step
    assert "DBOS_URL" in connection.next_step


async def test_a_host_that_drops_what_is_sent(tmp_path: Path) -> None:
    """A listener whose queue is full does so, too."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        found = await look(target(url_of(listener), tmp_path))
        for each in waiting:
            each.close()
    assert found.one("network.connection").facts["fault"] == "timeout"


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (silence, "no answer in time"),
        (dripping, "no answer in time"),
        (reset_after(), "broken off"),
        (says(b"SSH-2.0-OpenSSH_9\r\n\r\n"), "broken off"),
        (says(b""), "broken off"),
    ],
    ids=["silent", "dripping", "reset", "another protocol", "closed"],
)
async def test_what_listens_but_does_not_answer(fault: Fault, told: str, tmp_path: Path) -> None:
    found = await of_fault(fault, tmp_path)
    assert found.failing == ["network.connection"]
    assert found.one("network.connection").facts["fault"] == told
    assert found.one("network.conductor").status is Status.SKIP


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (answer_of(404, b"<html>", {"content-type": "text/html"}), "image 0.17.0 or later"),
        (answer_of(200, b"<html>", {"content-type": "text/html"}), "not of API v2"),
        (answer_of(301, headers={"location": "https://elsewhere.test/"}), "to elsewhere.test"),
        (answer_of(502), "502"),
        (answer_of(500, b"{}", JSON), "500"),
    ],
    ids=["no API v2", "a page", "a redirect", "a gateway", "a fault"],
)
async def test_what_answers_but_is_no_conductor(answer: bytes, told: str, tmp_path: Path) -> None:
    found = await of_fault(says(answer), tmp_path)
    assert found.failing == ["network.conductor"]
    finding = found.one("network.conductor")
    assert told in f"{finding.message} {finding.next_step}"
    assert found.one("network.connection").status is Status.OK


@pytest.mark.parametrize(
    ("authority", "host", "until", "told"),
    [
        (trustme.CA(), "127.0.0.1", None, "certificate of an unknown authority"),
        (AUTHORITY, "conductor.test", None, "certificate of another host"),
        (AUTHORITY, "127.0.0.1", PAST, "certificate expired"),
    ],
    ids=["self-signed", "of another host", "expired"],
)
async def test_certificates_that_are_not_good(
    authority: trustme.CA,
    host: str,
    until: datetime | None,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trusted = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    since = PAST - timedelta(days=9) if until else None
    authority.issue_cert(host, not_after=until, not_before=since).configure_cert(context)
    found = await of_fault(says(answer_of(200, b"[]", JSON)), tmp_path, context)
    assert found.failing == ["network.connection"]
    assert found.one("network.connection").facts["fault"] == told


async def test_a_certificate_that_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trusted = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    found = await of_fault(says(answer_of(200, b"[]", JSON)), tmp_path, context)
    assert found.failing == []
    assert found.one("network.connection").message.startswith("TLS to 127.0.0.1")


async def test_https_where_there_is_none(tmp_path: Path) -> None:
    """One says so, and one waits for the end of a head that never comes."""
    async with serving(FaultyServer(fault=silence)) as server:
        with served(JSONResponse([])) as url:
            for plain in (server.url, url):
                found = await look(target(plain.replace("http:", "https:"), tmp_path))
                assert found.failing == ["network.connection"]
                assert found.one("network.connection").facts["fault"] == "no TLS"
                assert "http://" in found.one("network.connection").next_step


async def test_certificates_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("not one")
    monkeypatch.setenv("SSL_CERT_FILE", str(nothing))
    found = await look(target("https://127.0.0.1:1", tmp_path))
    assert found.failing == ["network.connection"]
    assert "SSL_CERT_FILE" in found.one("network.connection").message


@pytest.mark.parametrize(("status", "fault"), [(None, "refused"), (407, "proxy"), (502, "proxy")])
async def test_a_proxy_in_between_is_named_without_its_password(
    status: int | None, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(FaultyServer(fault=says(answer_of(status or 200)))) as proxy:
        place = proxy.url if status else "http://127.0.0.1:1"
        monkeypatch.setenv("HTTPS_PROXY", place.replace("//", "//user:canary_77@"))
        found = await look(target("https://conductor.nowhere.invalid", tmp_path))
    connection = found.one("network.connection")
    assert connection.facts["fault"] == fault
    assert f"{place.removeprefix('http://')}, which HTTPS_PROXY names" in connection.message
    assert "export NO_PROXY=conductor.nowhere.invalid" in connection.next_step
    assert "canary" not in found.texts()


@pytest.mark.parametrize(
    ("seconds", "status", "way"),
    [
        (5, Status.OK, "as Conductor's"),
        (-60, Status.WARN, "ahead of"),
        (60, Status.WARN, "behind"),
        (3600, Status.FAIL, "behind"),
        (-3600, Status.FAIL, "ahead of"),
    ],
)
async def test_a_clock_that_is_off_is_told_by_how_much(
    seconds: int, status: Status, way: str, tmp_path: Path
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    applications = json.dumps([]).encode()
    found = await of_fault(says(answer_of(200, applications, {**JSON, "date": date})), tmp_path)
    clock = found.one("conductor.clock")
    assert clock.status is status
    assert way in clock.message
    ahead = clock.facts["ahead_ms"]
    assert isinstance(ahead, int)
    assert abs(ahead + seconds * 1000) < 10_000


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}, {"date": "x" * 9999}])
async def test_an_answer_without_a_time(headers: dict[str, str], tmp_path: Path) -> None:
    found = await of_fault(says(answer_of(200, b"[]", {**JSON, **headers})), tmp_path)
    assert found.one("conductor.clock").status is Status.SKIP
    assert found.failing == []
