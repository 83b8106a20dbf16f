"""What syncing costs upstream, added up in the cache, where every process can see it."""

from collections.abc import Callable
from dataclasses import asdict

from sqlalchemy import Connection

from dbos_mcp.conductor.traffic import TrafficCount
from dbos_mcp.domain import CONDUCTOR
from dbos_mcp.store import sync_state
from dbos_mcp.sync.mirror import Mirror


class Spending:
    """What the requests of this process have cost since that was last saved."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._saved: dict[str | None, TrafficCount] = {}

    async def save(self, also: Callable[[Connection], None] | None = None) -> None:
        """Add it to the counters of the applications, and do what is `also` to be written; what
        concerns no application goes to `CONDUCTOR`."""
        spent = self._mirror.client.traffic.by_application()
        new = {name: self._since_saved(name, count) for name, count in spent.items()}
        new = {name: amounts for name, amounts in new.items() if any(amounts.values())}
        if not new and also is None:
            return

        def work(connection: Connection) -> None:
            for name, amounts in new.items():
                sync_state.add(connection, CONDUCTOR if name is None else name, amounts)
            if also is not None:
                also(connection)

        await self._mirror.write(work)
        self._saved = spent

    def _since_saved(self, name: str | None, count: TrafficCount) -> dict[str, int]:
        before = asdict(self._saved.get(name, TrafficCount()))
        return {key: value - before[key] for key, value in asdict(count).items()}
