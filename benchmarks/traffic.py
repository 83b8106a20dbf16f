"""What goes over the wire, counted below everything else."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx


@dataclass
class Traffic:
    """Requests sent, and bytes of bodies received as they came (compressed, if they were)."""

    requests: int = 0
    bytes_received: int = 0

    def __sub__(self, before: "Traffic") -> "Traffic":
        return Traffic(self.requests - before.requests, self.bytes_received - before.bytes_received)


class CountingTransport(httpx.AsyncHTTPTransport):
    """Readings of steps apart from the rest: a cycle has as many as are due."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = Traffic()
        self.other = Traffic()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        traffic = self.steps if request.url.path.endswith("/steps") else self.other
        traffic.requests += 1
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Counted(response.stream, traffic)
        return response


class _Counted(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, traffic: Traffic) -> None:
        self._stream = stream
        self._traffic = traffic

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._traffic.bytes_received += len(chunk)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
