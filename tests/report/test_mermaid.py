"""Gantts whose text no name can break out of."""

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbos_mcp.report import mermaid
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from tests.report.scenes import NOON, Scene, checkout, hostile_scenes, step, waiting

INIT = r'%%\{init: \{"gantt": \{"leftPadding": \d+\}\}\}%%\n'
HEAD = re.compile(INIT + r"gantt\n    title [^:;#%<>`]+\n    dateFormat x\n    axisFormat ·\n")
SECTION = re.compile(r"    section [^:;#%<>`,]+")
TASK = re.compile(
    r"    (?:✕ )?(?:·|\d)[^:;#%<>`,\"]* :(?:crit|done|active), (?P<left>\d+), (?P<right>\d+)"
)


@pytest.fixture
def cache(cache_path: Path) -> Cache:
    return open_cache(cache_path)


def require_sound(text: str) -> None:
    head = HEAD.match(text)
    assert head, text
    for line in text[head.end() :].split("\n")[:-1]:
        task = TASK.fullmatch(line)
        assert task or SECTION.fullmatch(line), line
        if task:
            assert 0 <= int(task["left"]) < int(task["right"]) <= mermaid.WIDTH


def test_it_tells_what_the_waterfall_shows(cache: Cache) -> None:
    text = mermaid.gantt(checkout().unsaved(cache)[0])
    require_sound(text)
    assert text.splitlines()[2] == "    title Timeline of checkout-8f31, long waits drawn short"
    assert "    ✕ 2. post_to_ledger 4.6s (the failure began here) :crit, " in text
    assert "    · in a queue 3h 59m :done, " in text
    assert "    · an earlier run 2.3s :active, " in text
    assert text.count("section checkout checkout-8f31\n") == 2  # it goes on behind its child


def test_what_lasts_is_told_as_lasting(cache: Cache) -> None:
    text = mermaid.gantt(waiting().unsaved(cache)[0])
    assert "· in a queue at least 2h 59m :done" in text


@pytest.mark.parametrize(
    "name",
    [
        "a: crit, 0, 1\n    click a href evil",
        "```\n<script>alert(1)</script>",
        "%%{init: {}}%%",
        "section x",
        "#quot; ; end",
        "\u202e\u2028",
    ],
)
def test_a_hostile_name_stays_in_its_line(cache: Cache, name: str) -> None:
    scene = Scene().add(
        name, step(1, name, NOON - 50, 20, error=name), status="ERROR", workflow_name=name,
        created_at=NOON - 99, error=name,
    )  # fmt: skip
    (timeline,) = scene.unsaved(cache)
    text = mermaid.gantt(timeline)
    require_sound(text)
    assert len(text.splitlines()) == 5 + 1 + 2


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(scene=hostile_scenes(), now=st.sampled_from([0, NOON, 2**63 - 1]))
def test_no_times_names_or_relations_break_it(cache: Cache, scene: Scene, now: int) -> None:
    for timeline in scene.unsaved(cache, now=now):
        require_sound(mermaid.gantt(timeline))


def test_it_is_bounded_and_keeps_what_failed(cache: Cache) -> None:
    text = mermaid.gantt(checkout().unsaved(cache)[0], most=5)
    require_sound(text)
    assert "8 rows left out" in text
    assert "post_to_ledger" in text
    assert "release_stock" not in text
