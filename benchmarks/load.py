"""The first load, in a process of its own: `python -m benchmarks.load URL CACHE`.

Prints one JSON object. The process does nothing else, so that its memory is the load's.
"""

import json
import resource
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio

from benchmarks.traffic import CountingTransport
from dbos_mcp.runtime import open_runtime
from dbos_mcp.settings import Settings


def settings_for(url: str, cache: Path) -> Settings:
    """Everything there is, with the error texts: the default, but for the whole history."""
    return Settings(home=cache.parent, url=url, cache=cache, history=None)


async def load(url: str, cache: Path) -> dict[str, Any]:
    transport = CountingTransport()
    wal = cache.with_name(cache.name + "-wal")
    wal_peak = listed = 0
    listing_seconds: float | None = None
    async with open_runtime(settings_for(url, cache), transport=transport) as runtime:
        started = perf_counter()

        def watch(_application_name: str, subject: str, count: int) -> None:
            nonlocal wal_peak, listed, listing_seconds
            wal_peak = max(wal_peak, wal.stat().st_size)
            if subject != "steps":
                listed = count
            elif listing_seconds is None:  # indexes included: they are built after the last page
                listing_seconds = perf_counter() - started

        reports = await runtime.require_live().worker.run_once(watch)
        seconds = perf_counter() - started
    for report in reports:
        if report.error is not None:
            raise report.error
    return {
        "listed": listed,
        "listing_seconds": listing_seconds,
        "seconds": seconds,
        "events": sum(report.events for report in reports),
        "requests": transport.other.requests,
        "step_requests": transport.steps.requests,
        "peak_memory_bytes": peak_memory_bytes(),
        "wal_peak_bytes": wal_peak,
    }


def peak_memory_bytes() -> int:
    """The most that this process ever held resident.

    On Linux not `ru_maxrss`: a started program inherits it from the one that started it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(json.dumps(anyio.run(load, sys.argv[1], Path(sys.argv[2]))))
