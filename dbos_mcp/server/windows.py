"""Which failures are meant where nobody gives a time."""

from dbos_mcp.postmortem.failures import Window
from dbos_mcp.settings import DAY_MS


def failures_of_a_day(now: int) -> Window:
    """Of which there is a list."""
    return Window(now - DAY_MS, now)


def failures_of_a_week(now: int) -> Window:
    """Among which a group is looked for by its name."""
    return Window(now - 7 * DAY_MS, now)
