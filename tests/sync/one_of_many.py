"""One of several processes that share a cache. It looks whose turn it is when it is told to, by a
line on its stdin, and answers whether it leads and how many workflows it sees."""

import sys
from pathlib import Path

import anyio
import anyio.to_thread

from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.sync.pacing import LONGEST_MS
from dbos_mcp.sync.scheduler import SyncScheduler
from tests.upstream import Asked, open_site


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def hang(_asked: Asked) -> None:
    say("in the middle of a cycle")
    await anyio.sleep_forever()


async def main(database: Path, cache: Path) -> None:
    async with open_site(database, cache) as site:
        scheduler = SyncScheduler(site.worker)
        say("ready")
        while command := await anyio.to_thread.run_sync(sys.stdin.readline):
            if command == "hang\n":
                site.wire.heard = hang
            site.clock.ahead_ms += LONGEST_MS
            scheduler.note_question(CONDUCTOR)
            await scheduler.tick()
            say(f"{'leads' if scheduler.leads else 'follows'}, sees {len(site.mirrored())}")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), Path(sys.argv[2]))
