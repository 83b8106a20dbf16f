"""A server on a port of this machine that answers as a fault wants it: what a client must survive
of sockets, TLS and HTTP. It lives in the loop of the test. Without a fault an ASGI app answers."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from starlette.types import ASGIApp

Fault = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Seen:
    method: str
    target: str
    headers: dict[str, str]


@dataclass
class FaultyServer:
    """`fault` is what happens to the next request, and to those after it."""

    app: ASGIApp | None = None
    fault: Fault | None = None
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen, body = await _request(reader)
            self.seen.append(seen)
            if self.fault is not None:
                await self.fault(writer)
            else:
                await self._answer_of_the_app(seen, body, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _answer_of_the_app(
        self, seen: Seen, body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        assert self.app is not None
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://inside") as http:
            answer = await http.request(
                seen.method, seen.target, content=body, headers=seen.headers
            )
        writer.write(answer_of(answer.status_code, answer.content, dict(answer.headers)))
        await writer.drain()


async def _request(reader: asyncio.StreamReader) -> tuple[Seen, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, target, headers), body


def answer_of(status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """The bytes of an answer; its length is said truly unless `headers` says another."""
    said = {"content-length": str(len(content)), "connection": "close", **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    return f"HTTP/1.1 {status} Said\r\n{lines}\r\n".encode("latin-1") + content


def says(answer: bytes) -> Fault:
    """These bytes, and the end of the connection."""

    async def fault(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return fault


def reset_after(answer: bytes = b"") -> Fault:
    async def fault(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        wire: socket.socket = writer.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return fault


async def silence(_writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def dripping(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(
    server: FaultyServer, tls: ssl.SSLContext | None = None
) -> AsyncIterator[FaultyServer]:
    under_way: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(server.answer(reader, writer))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listener.close()
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
