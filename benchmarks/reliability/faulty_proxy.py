"""A way to a local server that can be made bad: it refuses, resets, cuts off, dawdles, or answers
in the server's place."""

import random
import socket
import struct
from enum import StrEnum

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

HOST = "127.0.0.1"
SLOW_SECONDS = 2.0
_CHUNK = 64 * 1024
_LONGEST_HEAD = 64 * 1024
_AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: a close that resets."""
_GONE = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


class Fault(StrEnum):
    """What happens to whoever asks. The server does what it is asked to, but where it is refused or
    answered with a number."""

    NONE = "none"
    REFUSED = "refused"
    RESET = "reset midway"
    HALF = "half answers"
    SLOW = "slow"
    UNAUTHORIZED = "401"
    FORBIDDEN = "403"
    BUSY = "429"
    BROKEN = "500"
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503"

    @property
    def status(self) -> int | None:
        return int(self.value) if self.value.isdigit() else None


class FaultyProxy:
    def __init__(self, upstream_port: int) -> None:
        self.port = free_port()
        self._upstream_port = upstream_port
        self._fault = Fault.NONE
        self._changed = anyio.Event()
        self._in_effect = anyio.Event()
        self._connections: set[anyio.CancelScope] = set()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def fault(self) -> Fault:
        return self._fault

    async def set(self, fault: Fault) -> None:
        """From now on; connections that are open are reset."""
        self._fault = fault
        self._in_effect = anyio.Event()
        for connection in self._connections:
            connection.cancel()
        self._changed.set()
        self._changed = anyio.Event()
        await self._in_effect.wait()

    @property
    def _refuses(self) -> bool:
        return self._fault is Fault.REFUSED

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        while True:
            async with (
                await anyio.create_tcp_listener(local_host=HOST, local_port=self.port) as listener,
                anyio.create_task_group() as connections,
            ):
                connections.start_soon(listener.serve, self._connected)
                task_status.started()
                task_status = anyio.TASK_STATUS_IGNORED
                while not self._refuses:
                    self._in_effect.set()
                    await self._changed.wait()
                connections.cancel_scope.cancel()
            self._in_effect.set()
            while self._refuses:
                await self._changed.wait()

    async def _connected(self, client: SocketStream) -> None:
        reset = True
        scope = anyio.CancelScope()
        self._connections.add(scope)
        try:
            with scope:
                await self._attend(client)
                reset = self._fault is Fault.RESET
        except* _GONE:
            pass
        finally:
            self._connections.discard(scope)
            if reset:
                client.extra(SocketAttribute.raw_socket).setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE
                )
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(client)

    async def _attend(self, client: SocketStream) -> None:
        fault = self._fault
        if fault.status is not None:
            await _answer(client, fault.status)
            return
        async with (
            await anyio.connect_tcp(HOST, self._upstream_port) as server,
            anyio.create_task_group() as directions,
        ):
            directions.start_soon(_hand_on, client, server)
            async for chunk in server:
                if fault is Fault.SLOW:
                    await anyio.sleep(SLOW_SECONDS)
                elif fault in (Fault.HALF, Fault.RESET):
                    await client.send(chunk[: random.randint(0, len(chunk) - 1)])
                    break
                await client.send(chunk)
            directions.cancel_scope.cancel()


async def _hand_on(client: SocketStream, server: SocketStream) -> None:
    try:
        async for chunk in client:
            await server.send(chunk)
        await server.send_eof()
    except _GONE:
        return  # the other direction has its end as well


async def _answer(client: SocketStream, status: int) -> None:
    """One request is read, and not handed on."""
    request = BufferedByteReceiveStream(client)
    head = (await request.receive_until(b"\r\n\r\n", _LONGEST_HEAD)).decode("latin-1")
    for line in head.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            await request.receive_exactly(int(value))
    body = f'{{"status": {status}, "detail": "made by the proxy"}}'
    lines = (
        f"HTTP/1.1 {status} Fault",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    await client.send(("\r\n".join(lines) + "\r\n\r\n" + body).encode())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
