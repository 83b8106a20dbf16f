"""Waterfalls: sound whatever they show, readable at any width, to be reached by the keyboard."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbos_mcp.postmortem.timeline import Timeline
from dbos_mcp.report import waterfall
from dbos_mcp.report.axis import axis_of
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from tests.report.conftest import Show
from tests.report.scenes import HOUR, NOON, SECOND, Scene, checkout, hostile_scenes, step, waiting

HOSTILE = "</title></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'`${{7*7}}&#x3c;"
TAGS = {
    *("figure", "figcaption", "div", "ol", "ul", "li", "p", "b", "span"),
    *("svg", "defs", "pattern", "g", "use", "rect", "line", "path", "circle", "text", "title"),
}


@pytest.fixture
def cache(cache_path: Path) -> Cache:
    return open_cache(cache_path)


def page(fragment: str, scheme: str = "light dark") -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>A picture</title>'
        f"<style>:root {{color-scheme: {scheme}}} body {{margin: 8px}}</style><body>{fragment}"
    )


def parsed(timeline: Timeline) -> ElementTree.Element:
    """What is drawn is well-formed XML as well."""
    return ElementTree.fromstring(waterfall.draw(timeline, with_style=False))


def part(element: ElementTree.Element, name: str) -> float:
    value = element.attrib[name]
    assert re.fullmatch(r"\d+(\.\d+)?%", value)
    return float(value[:-1])


def has(element: ElementTree.Element, name: str) -> bool:
    return name in element.get("class", "").split()


def bars_of(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """Of each row, from where to where each of its bars is, in percent."""
    return [
        [
            (part(bar, "x"), part(bar, "x") + part(bar, "width"))
            for bar in row.iter("rect")
            if has(bar, "bar")
        ]
        for row in root.findall("./div/ol/li")
    ]


def require_sound(timeline: Timeline) -> None:
    axis = axis_of(timeline)
    assert axis.pieces[0].left == 0
    assert axis.pieces[-1].right == 1
    for before, after in pairwise(axis.pieces):
        assert before.start <= before.end == after.start
        assert before.left <= before.right == after.left
    moments = sorted(
        moment
        for lane in timeline.lanes
        for span in lane.spans
        for moment in (span.start, timeline.end_of(span))
    )
    places = [axis.place(moment) for moment in moments]
    assert all(0 <= place <= 1 for place in places)
    assert places == sorted(places)
    root = parsed(timeline)
    assert {element.tag for element in root.iter()} <= TAGS
    assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]
    rows = bars_of(root)
    assert len(rows) == len(timeline.lanes)
    for row, lane in zip(rows, timeline.lanes, strict=True):
        assert len(row) == len(lane.spans)
        assert all(-0.01 <= left < right <= 100.01 for left, right in row)


def timelines(cache: Cache, scene: Scene) -> Sequence[Timeline]:
    return scene.unsaved(cache)


@pytest.mark.parametrize("scene", [checkout(), waiting()], ids=["checkout", "waiting"])
def test_a_picture_is_sound(cache: Cache, scene: Scene) -> None:
    for timeline in timelines(cache, scene):
        require_sound(timeline)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(scene=hostile_scenes(), now=st.sampled_from([0, NOON, 2**63 - 1]))
def test_no_times_names_or_relations_break_a_picture(cache: Cache, scene: Scene, now: int) -> None:
    for timeline in scene.unsaved(cache, now=now):
        require_sound(timeline)


def test_hostile_words_are_words(cache: Cache) -> None:
    scene = Scene().add(
        HOSTILE, step(1, HOSTILE, NOON - 50, 20, error=HOSTILE), status="ERROR", error=HOSTILE,
        workflow_name=HOSTILE, queue_name=HOSTILE, executor_id=HOSTILE, created_at=NOON - 99,
        dequeued_at=NOON - 60, forked_from=HOSTILE,
    )  # fmt: skip
    (timeline,) = timelines(cache, scene)
    drawn = waterfall.draw(timeline, prefix="first")
    assert "<script" not in drawn
    assert "<img" not in drawn
    assert "{7*7}" in drawn
    require_sound(timeline)


def test_long_waits_are_drawn_short_with_their_durations(cache: Cache) -> None:
    timeline = timelines(cache, checkout())[0]
    axis = axis_of(timeline)
    assert [piece.length // HOUR for piece in axis.breaks] == [3, 4]
    assert sum(piece.right - piece.left for piece in axis.breaks) < 0.2
    root = parsed(timeline)
    written = [text.text for text in root.iter("text") if has(text, "break")]
    assert sorted(map(str, written)) == ["3h 59m", "4h 59m"]
    # The seconds in which something happened have the rest.
    failing = next(lane for lane in timeline.lanes if lane.origin)
    (span,) = failing.spans
    assert axis.place(timeline.end_of(span)) - axis.place(span.start) > 0.2


def test_each_part_of_the_axis_says_what_time_it_is_of(cache: Cache) -> None:
    ticks = list(axis_of(timelines(cache, checkout())[0]).ticks())
    assert [tick.time for tick in ticks] == [
        "01:00:00",
        "05:00:00",
        *(f"10:00:{second:02}" for second in range(0, 11, 2)),
    ]
    assert [tick.date for tick in ticks] == ["21 Nov", *[""] * 7]


def test_what_is_of_one_size_is_drawn_to_scale(cache: Cache) -> None:
    begun = NOON - HOUR
    scene = Scene().add(
        "even",
        *(step(n, f"step_{n}", begun + n * 10 * SECOND, 5 * SECOND) for n in range(20)),
        status="SUCCESS",
        created_at=begun,
        completed_at=begun + 200 * SECOND,
    )
    (timeline,) = timelines(cache, scene)
    axis = axis_of(timeline)
    assert axis.breaks == []
    assert axis.place(begun + 50 * SECOND) == pytest.approx(0.25)


def test_a_failed_step_is_told_by_shape_and_word_not_by_colour_alone(cache: Cache) -> None:
    root = parsed(timelines(cache, checkout())[0])
    for row in root.findall("./div/ol/li"):
        failed = has(row, "failed")
        assert bool([mark for mark in row.iter("circle") if has(mark, "mark")]) == failed
        assert bool([sign for sign in row.iter("span") if has(sign, "sign")]) == failed
    (origin,) = [row for row in root.findall("./div/ol/li") if has(row, "origin")]
    said = "".join(origin.itertext())
    assert "The failure began here." in said
    assert "post_to_ledger" in said


def test_a_row_says_its_exact_times(cache: Cache) -> None:
    timeline = timelines(cache, checkout())[0]
    root = parsed(timeline)
    titles = [title.text for title in root.iter("title")]
    assert len(titles) == len(timeline.lanes)
    assert titles[-2] == (
        "step 2, post_to_ledger, failed; the failure began here; step 2026-11-21T10:00:03.800Z to"
        " 2026-11-21T10:00:08.400Z, 4.6s; InsufficientFundsError: card 4242 declined by the bank"
        " (code 51)"
    )
    assert titles[-4] == (
        "workflow post-payment-77, post_payment, ERROR; in a queue 2026-11-21T10:00:01.050Z to"
        " 2026-11-21T10:00:01.400Z, 350ms, queue ledger; an earlier run 2026-11-21T10:00:01.400Z"
        " to 2026-11-21T10:00:03.700Z, 2.3s, executor worker-4; runs 2026-11-21T10:00:03.700Z to"
        " 2026-11-21T10:00:08.500Z, 4.8s, executor worker-7; InsufficientFundsError: card 4242"
        " declined by the bank (code 51)"
    )


def test_a_row_of_many_says_how_many_and_from_when_to_when(cache: Cache) -> None:
    begun = NOON - HOUR + 1
    scene = Scene().add(
        "many", *(step(n, "poll", begun + n * 100, 50) for n in range(1, 41)), status="SUCCESS",
        created_at=begun, completed_at=begun + 9_000,
    )  # fmt: skip
    timeline = timelines(cache, scene)[0]
    require_sound(timeline)
    titles = [title.text for title in parsed(timeline).iter("title")]
    assert titles[-1] == (
        "steps, 37 × poll, went well; from 2026-11-21T11:00:00.401Z to"  # noqa: RUF001
        " 2026-11-21T11:00:04.051Z"
    )


def test_what_lasts_is_told_as_lasting(cache: Cache) -> None:
    root = parsed(timelines(cache, waiting())[0])
    rows = root.findall("./div/ol/li")
    lasting = [row for row in rows if [p for p in row.iter("path") if has(p, "lasts")]]
    took = ["".join(t.itertext()) for row in lasting for t in row.iter("span") if has(t, "took")]
    assert took == ["≥ 2h 59m"] * 3


def test_pictures_in_one_page_do_not_share_ids(cache: Cache) -> None:
    timeline = timelines(cache, checkout())[0]
    first = waterfall.draw(timeline, prefix="a")
    second = waterfall.draw(timeline, prefix="b", with_style=False)
    ids = [re.findall(r' id="([^"]+)"', text) for text in (first, second)]
    assert ids[0]
    assert not set(ids[0]) & set(ids[1])
    assert "<style>" not in second


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
async def test_it_fits_and_is_readable_at_any_width(
    cache: Cache, show: Show, width: int, scheme: str
) -> None:
    drawn = waterfall.draw(timelines(cache, checkout())[0])
    async with show(page(drawn), width=width, color_scheme=scheme) as opened:
        assert await opened.evaluate("document.documentElement.scrollWidth") <= width
        sizes = await opened.evaluate(
            "[...document.querySelectorAll('.name, .took, .axis text, .note')]"
            ".map(each => parseFloat(getComputedStyle(each).fontSize))"
        )
        assert min(sizes) >= 11
        # Nothing is cut off, and nothing of the axis covers anything else of it.
        cut = await opened.evaluate(
            "[...document.querySelectorAll('.name')]"
            ".filter(each => each.scrollWidth > each.parentElement.clientWidth).length"
        )
        assert cut == 0
        overlaps = await opened.evaluate(
            """[...document.querySelectorAll('.axis text')]
              .map(each => each.getBoundingClientRect()).filter(box => box.width)
              .filter((box, place, all) => all.slice(place + 1).some(other =>
                box.left < other.right && other.left < box.right
                && box.top + 2 < other.bottom && other.top + 2 < box.bottom)).length"""
        )
        assert overlaps == 0


async def test_the_keyboard_reaches_each_row_and_tells_its_times(cache: Cache, show: Show) -> None:
    timeline = timelines(cache, checkout())[0]
    async with show(page(waterfall.draw(timeline))) as opened:
        for lane in timeline.lanes:
            await opened.keyboard.press("Tab")
            focused = opened.locator("li:focus")
            assert lane.label in await focused.inner_text()
            box = await focused.locator(".exact").bounding_box()
            assert box is not None
            assert box["width"] > 300


def test_of_very_many_rows_the_keyboard_stops_only_where_something_is(cache: Cache) -> None:
    scene = checkout()
    scene.workflows[0].steps = [
        *scene.workflows[0].steps,
        *(step(n, f"poll_{n}", NOON - 9 * HOUR + n, 1) for n in range(6, 90)),
    ]
    root = parsed(timelines(cache, scene)[0])
    stops = [row for row in root.findall("./div/ol/li") if row.get("tabindex")]
    assert 0 < len(stops) < 10
    assert all(has(row, "failed") for row in stops)
