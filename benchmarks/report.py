"""How figures are printed: beside their targets, with the machine above them."""

import os
import platform
import sqlite3
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

out = Console(highlight=False, width=None if sys.stdout.isatty() else 150)


class Report:
    """A table of figures beside their targets."""

    def __init__(self, title: str) -> None:
        self._table = table(title, "What", "Figure", "Target", "", right=("Figure",))

    def add(self, what: str, figure: str, target: str = "", met: bool | None = None) -> None:
        self._table.add_row(what, figure, target, verdict(met))

    def print(self) -> None:
        show(self._table)


def table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        number = column in right
        made.add_column(column, justify="right" if number else "left", no_wrap=number)
    return made


def show(made: Table) -> None:
    out.print()
    out.print(made)


def verdict(met: bool | None) -> str:
    return "" if met is None else "[green]met[/green]" if met else "[red]missed[/red]"


def machine() -> str:
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{os.cpu_count()} cores{load}, {platform.system()} {platform.machine()},"
        f" Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """By nearest rank: one of the values."""
    return sorted(values)[(len(values) * percent + 99) // 100 - 1]


def milliseconds(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:.1f}" if ms < 99.95 else f"{ms:,.0f}"


def three(times: Sequence[float]) -> str:
    """p50, p95 and the longest, in milliseconds."""
    parts = percentile(times, 50), percentile(times, 95), max(times)
    return " ".join(f"{milliseconds(part):>5}" for part in parts)
