"""Whatever name is asked for: it is one segment of the path, or nothing is sent.

`just fuzz-ids` tries many more than the suite does.
"""

import os
from urllib.parse import unquote

import anyio
import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from dbos_mcp.conductor.client import ConductorClient
from dbos_mcp.conductor.credentials import Credentials
from dbos_mcp.conductor.identity import FixedIdentity
from dbos_mcp.errors import DbosMcpError, UsageError
from tests.conductor.operations import OPERATIONS, operations

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
PLAIN = "x"

hostile = st.lists(
    st.sampled_from(
        [
            *("/", "\\", ".", "..", "%2e", "%2F", "%", "?", "#", ";", ":", "@", "//", " ", "\t"),
            *("\r\n", "\x00", "\x1b", "\x7f", "\x9b", "\u202e", "\u2028", "\ufeff", "\ud800"),
            *("\U000e0041", "a", "apps", "workflows", "é", "🙂", "{workflow}", "http://evil.test/"),
        ]
    )
    | st.characters(exclude_categories=()),
    max_size=6,
).map("".join)


class Way(httpx.AsyncBaseTransport):
    def __init__(self) -> None:
        self.urls: list[httpx.URL] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.urls.append(request.url)
        return httpx.Response(400)


async def paths(names: dict[str, str]) -> dict[str, list[str] | None]:
    """The segments of what each operation sends, if it sends anything."""
    way, sent = Way(), dict[str, list[str] | None]()
    identity = FixedIdentity(Credentials("acme"))
    async with ConductorClient(
        "https://conductor.test/base", identity, transport=way, reads_per_second=1_000_000
    ) as client:
        for operation, name in names.items():
            way.urls.clear()
            try:
                await operations(name)[operation](client)
            except UsageError:
                assert not way.urls
            except DbosMcpError:
                pass
            for url in way.urls:
                assert (url.scheme, url.host, url.port) == ("https", "conductor.test", None)
            path = way.urls[0].raw_path.decode().partition("?")[0] if way.urls else None
            sent[operation] = path.split("/") if path is not None else None
    return sent


TEMPLATES = anyio.run(paths, dict.fromkeys(OPERATIONS, PLAIN))


@settings(max_examples=EXAMPLES or 200, derandomize=not EXAMPLES, deadline=None)
@given(name=hostile, operation=st.sampled_from(list(OPERATIONS)))
def test_a_name_is_one_segment_of_the_path_or_nothing_is_sent(name: str, operation: str) -> None:
    segments = anyio.run(paths, {operation: name})[operation]
    if segments is None:
        assert name in ("", ".", "..") or not (name.isprintable() and name.isascii())
        return
    template = TEMPLATES[operation]
    assert template is not None
    assert len(segments) == len(template)
    for said, expected in zip(segments, template, strict=True):
        assert said not in (".", "..")
        assert unquote(said) == (name if expected == PLAIN else expected)
