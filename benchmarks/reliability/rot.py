"""Damage cache files, look them through, and restore them: `just rot --rounds 1000`.

Each file is a copy of one small cache that is damaged once, at random: a bit, a page, its end or
beginning, its WAL. `cache check --deep` says whether it notices, `cache restore` makes of it what
it can. A crash is whatever is not an error of ours; the damaged file must stay as it
is. The control is the file itself, in which nothing may be found.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from benchmarks.report import Report, machine, out
from dbos_mcp.errors import DbosMcpError, UsageError
from dbos_mcp.store import event_log, projector
from dbos_mcp.store.events import (
    ApplicationObserved,
    Event,
    StepsObserved,
    StepState,
    WorkflowChanged,
    WorkflowObserved,
)
from dbos_mcp.store.migrate import open_cache
from dbos_mcp.upkeep.check import check
from dbos_mcp.upkeep.prune import give_back
from dbos_mcp.upkeep.restore import restore

NOW = 1_790_000_000_000
PAGE = 4096
WORKFLOWS = 600
LOOKED_AT_AGAIN = 10
"""Of so many that were restored, one is looked through in turn."""
IN_USE = 0.91
"""Of the bytes of a cache of a million workflows; in the rest a bit means nothing."""
_PAGES_OF_TREES = (2, 5, 10, 13)
SEEN_OF_FLIPS, SAVED_OF_A_PAGE = 85.0, 99.0

Damage = Callable[[Path, random.Random], None]


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    while _is_empty(content, place):
        place = chance.randrange(len(content))
    content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _is_empty(content: bytearray, place: int) -> bool:
    """Whether it is in the room that a page has left: of a small file, more than a quarter."""
    page = place - place % PAGE
    header = page + (100 if page == 0 else 0)
    if content[header] not in _PAGES_OF_TREES:
        return False
    interior = 4 if content[header] < _PAGES_OF_TREES[2] else 0
    cells = int.from_bytes(content[header + 3 : header + 5], "big")
    begins = int.from_bytes(content[header + 5 : header + 7], "big")
    return header + 8 + interior + 2 * cells <= place < page + begins


def _lose_a_page(path: Path, chance: random.Random) -> None:
    page = chance.randrange(path.stat().st_size // PAGE)
    _overwrite(path, page * PAGE, bytes(PAGE))


def _garble(path: Path, chance: random.Random) -> None:
    length = chance.randrange(1, 3 * PAGE)
    _overwrite(path, chance.randrange(path.stat().st_size - length), chance.randbytes(length))


def _cut_off(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def _lose_the_header(path: Path, chance: random.Random) -> None:
    _overwrite(path, 0, chance.randbytes(chance.choice([16, 100, PAGE])))


def _lose_the_wal(path: Path, _chance: random.Random) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def _overwrite(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


@dataclass(frozen=True)
class Kind:
    name: str
    share: float
    """Of all rounds."""
    damage: Damage
    has_wal: bool = False


FLIP, PAGE_LOST = "one bit flipped, where there is something", "one page zeroed"
KINDS = (
    Kind(FLIP, 0.4, _flip),
    Kind(PAGE_LOST, 0.2, _lose_a_page),
    Kind("random bytes in up to 4 pages", 0.1, _garble),
    Kind("cut off", 0.14, _cut_off),
    Kind("header overwritten", 0.1, _lose_the_header),
    Kind("WAL missing", 0.06, _lose_the_wal, has_wal=True),
)


@dataclass
class Tally:
    """What came of the files of one kind."""

    files: int = 0
    noticed: int = 0
    restored: int = 0
    beyond_help: int = 0
    """Of which nothing could be made; told in one sentence."""
    saved: list[float] = field(default_factory=list)
    """Of each that was restored, how many of a hundred events."""
    faults: list[str] = field(default_factory=list)
    """Crashes, and files that were changed or gone."""


def make(folder: Path, workflows: int = WORKFLOWS) -> tuple[Path, int]:
    """A cache like one that was loaded, its pages full, and part of it in a copy's WAL; and how
    many events it has."""
    path = folder / "cache.sqlite"
    cache = open_cache(path)
    shop = "shop"
    with cache.write() as connection:
        listed = ApplicationObserved(application_name=shop, application_id="a", status="AVAILABLE")
        projector.record(connection, [listed], recorded_at=NOW)
    for n in range(workflows):
        workflow_id = f"order-{n:05}-{n * 7919:08x}"
        state = {
            "application_name": shop,
            "workflow_id": workflow_id,
            "workflow_name": "checkout" if n % 3 else "restock",
            "created_at": NOW + n,
            "executor_id": f"executor-{n % 4}",
            "application_version": "1.4.0",
        }
        names = ("reserve", "charge", "ship")
        steps = [StepState(step_id=k, step_name=name) for k, name in enumerate(names)]
        ended = {"status": "SUCCESS" if n % 5 else "ERROR", "completed_at": NOW + 2 * n}
        events: list[Event] = [
            WorkflowObserved.model_validate({**state, "status": "PENDING", "updated_at": NOW + n}),
            WorkflowChanged.model_validate({**state, **ended, "updated_at": NOW + 2 * n}),
        ]
        if n % 4 == 0:
            events.append(
                StepsObserved(application_name=shop, workflow_id=workflow_id, steps=tuple(steps))
            )
        with cache.write() as connection:
            projector.record(connection, events, recorded_at=NOW + 2 * n)
        if n == workflows - workflows // 10:
            cache.checkpoint(wal_limit_bytes=0)
    for suffix in ("", "-wal"):  # as a process leaves it that was killed
        shutil.copy(f"{path}{suffix}", folder / f"killed.sqlite{suffix}")
    with cache.read() as connection:
        count = event_log.count(connection)
    cache.close()
    give_back(path, at_least=0)
    return path, count


def damage_one(
    base: Path, events: int, kind: Kind, folder: Path, chance: random.Random, tally: Tally
) -> None:
    path = folder / "damaged.sqlite"
    source = base.with_name("killed.sqlite") if kind.has_wal else base
    shutil.copy(source, path)
    if kind.has_wal:
        shutil.copy(f"{source}-wal", f"{path}-wal")
    kind.damage(path, chance)
    before = path.read_bytes()
    tally.files += 1
    left = path
    try:
        done = restore(path, now=NOW + 10**9)
    except UsageError:  # it is sound, as far as that can be seen
        pass
    except DbosMcpError:
        tally.noticed += 1
        tally.beyond_help += 1
    except Exception as error:  # what must never be
        tally.faults.append(f"{kind.name}: {type(error).__name__}: {error}")
    else:
        tally.noticed += 1
        tally.restored += 1
        tally.saved.append(100 * done.events / events)
        left = done.set_aside or path
        again = tally.restored % LOOKED_AT_AGAIN == 1
        if again and not check(path, now=NOW + 10**9, deep=True).is_sound:
            tally.faults.append(f"{kind.name}: what was restored is damaged as well")
    if not left.exists() or left.read_bytes() != before:
        tally.faults.append(f"{kind.name}: the damaged file is not as it was")
    for each in folder.iterdir():
        each.unlink()


def run(rounds: int, *, seed: int = 1, workflows: int = WORKFLOWS) -> dict[str, Tally]:
    """Of each kind, what came of its share of the rounds."""
    tallies = {kind.name: Tally() for kind in KINDS}
    chance = random.Random(seed)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        base, events = make(folder, workflows)
        (folder / "damaged").mkdir()
        if not check(base, now=NOW + 10**9, deep=True).is_sound:
            tallies[FLIP].faults.append("the control, which is sound, was found to be damaged")
        for kind in KINDS:
            for _ in range(max(1, round(rounds * kind.share))):
                tally = tallies[kind.name]
                damage_one(base, events, kind, folder / "damaged", chance, tally)
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(prog="rot", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000, help="how many files are damaged")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    out.print(machine())
    started = perf_counter()
    tallies = run(asked.rounds, seed=asked.seed)
    files = sum(tally.files for tally in tallies.values())
    faults = [fault for tally in tallies.values() for fault in tally.faults]
    report = Report(f"{files:,} damaged files in {perf_counter() - started:.0f} s")
    for name, tally in tallies.items():
        saved = tally.saved or [0.0]
        mean, least = sum(saved) / len(saved), min(saved)
        seen = 100 * tally.noticed / tally.files
        goals = {
            FLIP: (f"{IN_USE:g} x noticed >= {SEEN_OF_FLIPS:g}%", IN_USE * seen >= SEEN_OF_FLIPS),
            PAGE_LOST: (f"saved >= {SAVED_OF_A_PAGE:g}%", mean >= SAVED_OF_A_PAGE),
        }
        report.add(
            f"{name}: {tally.files}",
            f"{seen:.0f}% noticed; {tally.restored} restored with {mean:.1f}% of the events"
            f" ({least:.1f}% at the least), {tally.beyond_help} beyond help",
            *goals.get(name, ("", None)),
        )
    report.add("crashes, and files changed or removed", str(len(faults)), "0", not faults)
    report.print()
    for fault in faults[:10]:
        out.print(fault)
    flips, lost = tallies[FLIP], tallies[PAGE_LOST]
    missed = IN_USE * flips.noticed < flips.files * SEEN_OF_FLIPS / 100 or (
        bool(lost.saved) and sum(lost.saved) / len(lost.saved) < SAVED_OF_A_PAGE
    )
    sys.exit(bool(faults) or missed)


if __name__ == "__main__":
    main()
