"""Where a server may be, and for whom."""

import socket
from pathlib import Path

import pytest

from dbos_mcp.errors import UsageError
from dbos_mcp.serving.app import listen
from dbos_mcp.serving.place import Place
from tests.command_line import run


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    Place(host).require_safe(authenticated=False)


@pytest.mark.parametrize(
    "place",
    [
        Place("0.0.0.0"),
        Place("::"),
        Place(""),
        Place("10.0.0.5"),
        Place("::ffff:127.0.0.1"),
        Place("2130706433"),  # 127.0.0.1 to some resolvers
        Place("localhost.example.com"),
        Place("127.0.0.1", allowed_hosts=["mcp.example.com"]),  # a proxy hands others on to it
    ],
)
def test_nobody_is_served_elsewhere_without_a_token(place: Place) -> None:
    with pytest.raises(UsageError, match="without a token") as refused:
        place.require_safe(authenticated=False)
    assert "dbos-mcp token create NAME" in refused.value.hint


def test_every_address_is_no_name() -> None:
    with pytest.raises(UsageError, match="and no name"):
        Place("0.0.0.0").require_safe(authenticated=True)
    place = Place("0.0.0.0", allowed_hosts=["mcp.example.com"])
    place.require_safe(authenticated=True)
    assert place.hosts == {
        "mcp.example.com",
        "mcp.example.com:8321",
        *("localhost:8321", "127.0.0.1:8321", "[::1]:8321"),
    }


@pytest.mark.parametrize(
    "name", ["*", "*.example.com", "https://x", "a/b", "", " a", "u@h", "[::1"]
)
def test_a_name_is_one_host(name: str) -> None:
    with pytest.raises(UsageError, match="is no host"):
        Place("10.0.0.5", allowed_hosts=[name]).require_safe(authenticated=True)


@pytest.mark.parametrize("origin", ["*", "null", "app.example.com", "https://a/", "https://*.a"])
def test_an_origin_is_one_page(origin: str) -> None:
    with pytest.raises(UsageError, match="is no origin"):
        Place(allowed_origins=[origin]).require_safe(authenticated=True)


def test_its_names_are_those_that_clients_say() -> None:
    assert Place("10.0.0.5", 443).hosts == {"10.0.0.5:443", "10.0.0.5"}
    assert Place("::1", 9000).url == "http://[::1]:9000/mcp"
    proxied = Place(allowed_hosts=["mcp.example.com", "other.example.com:8443"])
    assert proxied.url == "https://mcp.example.com/mcp"
    assert {"mcp.example.com", "other.example.com:8443"} <= proxied.hosts
    assert "other.example.com" not in proxied.hosts


def test_a_certificate_is_a_file_and_goes_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file"):
        Place(tls_certificate=tmp_path / "none.pem").require_safe(authenticated=True)
    key = tmp_path / "key.pem"
    key.touch()
    with pytest.raises(UsageError, match="A key alone"):
        Place(tls_key=key).require_safe(authenticated=True)


def test_a_port_that_is_taken_is_said_so() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(UsageError, match="cannot be listened on"),
    ):
        listen(Place(port=other.getsockname()[1]))


def test_the_command_line_refuses_an_open_door(tmp_path: Path) -> None:
    open_door = run(tmp_path, "serve", "--http", "--host", "0.0.0.0", "--port", "0")
    assert open_door.returncode == 2
    assert "Nobody is served on 0.0.0.0 without a token." in open_door.stderr
    slip = run(tmp_path, "serve", "--port", "9000")
    assert (slip.returncode, "Add --http" in slip.stderr) == (2, True)
