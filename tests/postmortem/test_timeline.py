"""When a tree of workflows did what, from a real application's runs and from hostile ones."""

import re
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbos_mcp.domain import FAILED, now_ms
from dbos_mcp.errors import NotFoundError
from dbos_mcp.postmortem import timeline as module
from dbos_mcp.postmortem.timeline import LeftOut, Timeline, read_timeline
from dbos_mcp.store import sync_state
from dbos_mcp.store.engine import Cache
from dbos_mcp.store.migrate import open_cache
from tests.plans import plans_of
from tests.report.scenes import (
    APP,
    HOUR,
    NOON,
    Scene,
    checkout,
    child,
    hostile_scenes,
    step,
    waiting,
)
from tests.upstream import Site


def told(timeline: Timeline) -> list[str]:
    """A line for each lane: how deep, what it is, and what it went through."""
    return [
        f"{'  ' * lane.depth}{'' if lane.step_id is None else f'{lane.step_id} '}{lane.label}"
        f" {'+'.join(span.kind + ('…' if span.end is None else '') for span in lane.spans)}"
        + (" origin" if lane.origin else "")
        for lane in timeline.lanes
    ]


def require_sound(timeline: Timeline) -> None:
    assert timeline.start <= timeline.end
    for lane in timeline.lanes:
        for span in lane.spans:
            assert timeline.start <= span.start <= timeline.end_of(span) <= timeline.end
        for before, after in pairwise(lane.spans):
            assert before.end is not None
            assert before.end <= after.start
    depths = [lane.depth for lane in timeline.lanes]
    assert depths[0] == 0
    assert all(deeper <= depth + 1 for depth, deeper in pairwise(depths))


@pytest.fixture
def cache(cache_path: Path) -> Cache:
    return open_cache(cache_path)


async def test_a_real_tree_is_nested_under_the_steps_that_started_it(site: Site) -> None:
    await site.sync_until_steps_are_read()
    with site.cache.read() as connection:
        timeline = read_timeline(connection, APP, "order-1005", now=now_ms())
        of_child = read_timeline(connection, APP, "order-1005-5-4", now=now_ms())
    assert told(timeline) == [
        "place_order run",
        "  1 check_stock step",
        "  2 charge_card step",
        "  3 DBOS.setEvent step",
        "  4 email_receipt queued+run",
        "    1 render_receipt step",
        "    2 send_email step",
        "  5 fulfil_order run",
        "    1 DBOS.writeStream step",
        "    2 reserve_items step",
        "    3 DBOS.writeStream step",
        "    4 book_courier run",
        "      1 find_depot step",
        "      2 quote_delivery step origin",
    ]
    assert timeline.lanes[-1].note == "'BT'"
    assert [lane.failed for lane in timeline.lanes if lane.step is None] == [
        lane.workflow.status in FAILED for lane in timeline.lanes if lane.step is None
    ]
    assert timeline.left_out == LeftOut()
    require_sound(timeline)
    # Its parents alone, and not what else they did.
    assert told(of_child) == [
        "place_order run",
        "  fulfil_order run",
        "    book_courier run",
        "      1 find_depot step",
        "      2 quote_delivery step origin",
    ]
    assert [lane.asked for lane in of_child.lanes] == [False, False, True, False, False]


async def test_whole_seconds_of_an_upstream_do_not_tear_steps_from_their_workflow(
    site: Site,
) -> None:
    await site.sync_until_steps_are_read()
    with site.cache.read() as connection:
        timeline = read_timeline(connection, APP, "order-1005", now=now_ms())
    runs = {lane.workflow.workflow_id: lane.spans[-1] for lane in timeline.lanes if not lane.step}
    for lane in timeline.lanes:
        if lane.step is not None and lane.spans[0].end is not None:
            run = runs[lane.workflow.workflow_id]
            assert run.end is not None
            assert run.start <= lane.spans[0].start
            assert lane.spans[0].end <= max(run.end, run.start)


@pytest.mark.parametrize(
    ("workflow_id", "lines"),
    [
        ("pick-shelf-3", ["pick_items queued…"]),
        ("pick-shelf-1", ["pick_items queued+run…", "  1 DBOS.recv or DBOS.getEvent wait…"]),
        ("restock-1", ["restock delayed…"]),
    ],
)
async def test_what_still_lasts_has_no_end(site: Site, workflow_id: str, lines: list[str]) -> None:
    await site.sync_until_steps_are_read()
    with site.cache.read() as connection:
        timeline = read_timeline(connection, APP, workflow_id, now=now_ms())
    assert told(timeline) == lines
    require_sound(timeline)


async def test_a_sleep_lasts_until_its_row_says_that_it_ends(site: Site) -> None:
    await site.sync_until_steps_are_read()
    now = now_ms()
    with site.cache.read() as connection:
        asleep = read_timeline(connection, APP, "reconcile-1", now=now)
        sleep = next(lane for lane in asleep.lanes if lane.label == "DBOS.sleep")
        assert sleep.spans[0].end is None
        assert sleep.note.startswith("until 2")
        assert asleep.end <= now
    require_sound(asleep)


def test_an_earlier_run_of_a_recovered_workflow_is_an_attempt(cache: Cache) -> None:
    timeline = checkout().timeline(cache, "checkout-8f31")
    recovered = next(lane for lane in timeline.lanes if lane.label == "post_payment")
    assert [(span.kind, span.says) for span in recovered.spans] == [
        ("queued", "queue ledger"),
        ("attempt", "executor worker-4"),
        ("run", "executor worker-7"),
    ]
    assert told(timeline)[-2:] == ["      2 post_to_ledger step origin", "  5 release_stock step"]
    require_sound(timeline)


def test_one_that_was_resumed_after_its_end_rested_in_between(cache: Cache) -> None:
    scene = Scene().add(
        "again",
        before=[
            {
                "status": "ERROR",
                "created_at": NOON - HOUR,
                "dequeued_at": NOON - HOUR + 100,
                "completed_at": NOON - HOUR + 500,
                "updated_at": NOON - HOUR + 500,
                "executor_id": "a",
            }
        ],
        status="ERROR",
        created_at=NOON - HOUR,
        dequeued_at=NOON - 1_111,
        completed_at=NOON - 11,
        executor_id="b",
    )
    (lane,) = scene.timeline(cache, "again").lanes
    assert [(span.kind, span.start - NOON, span.end) for span in lane.spans] == [
        ("queued", -HOUR, NOON - HOUR + 100),
        ("attempt", 100 - HOUR, NOON - HOUR + 500),
        ("run", -1_111, NOON - 11),
    ]


def test_the_open_wait_and_the_ended_child_of_one_that_waits_are_shown(cache: Cache) -> None:
    timeline = waiting().timeline(cache, "order-5")
    assert told(timeline) == [
        "order run…",
        "  1 reserve_stock step",
        "  2 notify queued…",
        "  3 ship run",
        "    1 pack step",
        "  4 DBOS.recv or DBOS.getEvent wait…",
    ]
    assert timeline.end == NOON


@pytest.mark.parametrize(("read", "more"), [(True, ["  2 (under way) step…"]), (False, [])])
def test_a_step_that_runs_has_no_row_yet(cache: Cache, read: bool, more: list[str]) -> None:
    rows = [step(1, "pack", NOON - HOUR + 5, 30)] if read else []
    scene = Scene().add("busy", *rows, status="PENDING", created_at=NOON - HOUR, read=read)
    timeline = scene.timeline(cache, "busy")
    assert told(timeline)[1 + len(rows) :] == more
    if more:
        assert timeline.lanes[-1].spans[0].start == NOON - HOUR + 35


def test_a_mirror_that_last_looked_long_ago_knows_nothing_since(cache: Cache) -> None:
    timeline = waiting().timeline(cache, "order-5", now=NOON + 9 * HOUR)
    assert timeline.seen_at == timeline.now == NOON + 9 * HOUR  # it never looked
    with cache.write() as connection:
        sync_state.update(connection, APP, {"succeeded_at": NOON})
    with cache.read() as connection:
        timeline = read_timeline(connection, APP, "order-5", now=NOON + 9 * HOUR)
    assert (timeline.seen_at, timeline.end) == (NOON, NOON)


def test_a_child_that_is_not_mirrored_leaves_its_step(cache: Cache) -> None:
    begun = NOON - HOUR + 1
    scene = Scene().add(
        "lonely", *child(1, "elsewhere", begun, NOON, "gone"), status="SUCCESS", created_at=begun,
        completed_at=NOON - 1,
    )  # fmt: skip
    timeline = scene.timeline(cache, "lonely")
    assert told(timeline)[1:] == ["  1 elsewhere step", "  2 DBOS.getResult wait"]
    assert timeline.lanes[1].note == "started gone, which is not shown"


def test_forks_and_unread_steps_are_lines(cache: Cache) -> None:
    scene = (
        Scene()
        .add("source", status="ERROR", created_at=NOON - HOUR, read=False)
        .add("fork", status="SUCCESS", created_at=NOON - 9, forked_from="source")
    )
    timeline = scene.timeline(cache, "source")
    assert timeline.unread == ["source"]
    assert timeline.relatives == ["Forked 1 time: fork SUCCESS."]
    with cache.read() as connection:
        fork = read_timeline(connection, APP, "fork", now=NOON)
    assert fork.relatives == ["Forked from source, which is ERROR."]


def test_what_failed_is_kept_where_there_is_no_space_for_all(cache: Cache) -> None:
    begun = NOON - HOUR
    scene = Scene().add(
        "top",
        *(step(n, f"poll_{n}", begun + n * 10, 5) for n in range(1, 400)),
        *child(400, "bad", begun + 5_000, begun + 6_000, "bad", "boom"),
        status="ERROR",
        created_at=begun,
        error="boom",
    )
    for n in range(200):
        scene.add(
            f"fine-{n}", status="SUCCESS", workflow_name=f"fine_{n}", created_at=begun,
            parent_workflow_id="top",
        )  # fmt: skip
    scene.add(
        "bad", step(1, "breaks", begun + 5_100, 50, error="boom"), status="ERROR",
        created_at=begun + 5_001, parent_workflow_id="top", error="boom",
    )  # fmt: skip
    timeline = scene.timeline(cache, "top", now=NOON)
    assert len(timeline.lanes) == module.MOST_LANES
    assert "    1 breaks step origin" in told(timeline)
    shown = sum(lane.step is None for lane in timeline.lanes)
    assert shown + timeline.left_out.workflows == 202
    assert len(timeline.lanes) - shown + timeline.left_out.steps == 400
    with cache.read() as connection:
        few = read_timeline(connection, APP, "top", now=NOON, most=3)
    assert told(few) == ["top run", "  400 bad run", "    1 breaks step origin"]


def test_many_that_went_well_and_have_one_name_share_a_lane(cache: Cache) -> None:
    begun = NOON - HOUR + 1
    scene = Scene().add(
        "top",
        *(
            step(n, "poll", begun + n * 100, 50, error="boom" if n == 20 else None)
            for n in range(1, 41)
        ),
        status="SUCCESS",
        created_at=begun,
        completed_at=begun + 9_000,
    )
    for n in range(module.MOST_WORKFLOWS + 20):
        scene.add(
            f"fine-{n:03}", step(1, "ask", begun + n, 1), parent_workflow_id="top",
            status="PENDING" if n == 7 else "SUCCESS", workflow_name="fine",
            created_at=begun + 5_000 + n, completed_at=begun + 6_000 + n,
        )  # fmt: skip
    timeline = scene.timeline(cache, "top")
    lanes = told(timeline)
    assert lanes[:6] == [
        "top run",
        "  1 poll step",
        "  2 poll step",
        "  3 poll step",
        "  4 36 × poll " + "+".join(["step"] * 36),  # noqa: RUF001
        "  20 poll step",
    ]
    # Those at hand, which overlap, in one piece.
    folded = timeline.lanes[lanes.index("  166 × fine run")]  # noqa: RUF001
    assert [(span.start - begun, (span.end or 0) - begun) for span in folded.spans] == [
        (5_003, 6_169)
    ]
    assert "  fine run…" in lanes
    assert timeline.left_out == LeftOut()
    require_sound(timeline)


def test_whatever_it_asks_of_the_cache_an_index_answers(cache: Cache) -> None:
    checkout().timeline(cache, "checkout-8f31")
    question = partial(read_timeline, application_name=APP, workflow_id="checkout-8f31", now=NOON)
    with cache.read() as connection:
        plans = plans_of(connection, question)
    assert any("step" in plan for plan in plans)
    # `given` are keys that are asked for: a parameter, and no table.
    assert not [plan for plan in plans if re.match("SCAN (?!given )[a-z]", plan)]


def test_who_was_never_seen_is_not_found(cache: Cache) -> None:
    checkout().timeline(cache, "checkout-8f31")
    with cache.read() as connection, pytest.raises(NotFoundError):
        read_timeline(connection, APP, "nobody", now=NOON)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    scene=hostile_scenes(),
    now=st.sampled_from([0, NOON, 2**63 - 1]),
    most=st.sampled_from([1, 3, module.MOST_LANES]),
)
def test_no_times_names_or_relations_break_it(
    cache: Cache, scene: Scene, now: int, most: int
) -> None:
    for timeline in scene.unsaved(cache, now=now, most=most):
        require_sound(timeline)
        assert len(timeline.lanes) <= most
