"""A target looked at in this process, and what was found."""

from collections.abc import Mapping

import anyio.to_thread

from dbos_mcp.doctor.checks import examine
from dbos_mcp.doctor.finding import Finding, Status, Told, exit_code
from dbos_mcp.settings import Settings


class Found(list[Told]):
    def all(self, check: str) -> list[Finding]:
        return [each.finding for each in self if each.check.id == check]

    def one(self, check: str) -> Finding:
        (finding,) = self.all(check)
        return finding

    @property
    def failing(self) -> list[str]:
        return [each.check.id for each in self if each.finding.status is Status.FAIL]

    @property
    def exit_code(self) -> int:
        return exit_code(self)

    def texts(self) -> str:
        return repr([(each.finding.message, each.finding.next_step, each.finding) for each in self])


def found_at(
    *targets: Settings, environ: Mapping[str, str] | None = None, deep: bool = False
) -> Found:
    found = Found(examine(targets, environ or {}, deep=deep))
    for each in found:  # whatever was found
        finding = each.finding
        assert finding.message
        assert "broke" not in finding.message.split(" ")[:3] or "check" not in finding.message
        assert bool(finding.next_step) is (finding.status in (Status.WARN, Status.FAIL))
    return found


async def look(*targets: Settings, environ: Mapping[str, str] | None = None) -> Found:
    """While servers in the loop of the test answer."""
    return await anyio.to_thread.run_sync(lambda: found_at(*targets, environ=environ))
