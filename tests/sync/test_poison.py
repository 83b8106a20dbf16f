"""Rows of Conductor's that cannot be read: each is set aside and told of, and holds up nothing.

Upstream is an ASGI application that answers with the bytes that a test gives it.
"""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dbos_mcp.conductor import client
from dbos_mcp.conductor.traffic import Traffic
from dbos_mcp.domain import now_ms, parse_time
from dbos_mcp.errors import DbosMcpError
from dbos_mcp.queries.sync_status import sync_status
from dbos_mcp.server.sync_status import status_text
from dbos_mcp.store import projector, unreadable
from dbos_mcp.store.projections.steps import StepRow
from dbos_mcp.sync.audit import AUDIT_EVERY_MS, UNREADABLE_AGAIN_MS
from tests.sync.poison import APPLICATION, row, site_of
from tests.upstream import APP, Site, problem


def deep(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


Spoil = Callable[[dict[str, Any]], bytes]


def members(**changed: object) -> Spoil:
    return lambda row: json.dumps({**row, **changed}).encode()


def without(name: str) -> Spoil:
    return lambda row: json.dumps({key: row[key] for key in row if key != name}).encode()


def raw(name: str, text: bytes) -> Spoil:
    """The member's JSON, as it is."""

    def spoil(row: dict[str, Any]) -> bytes:
        return json.dumps({**row, name: "@@"}).encode().replace(b'"@@"', text)

    return spoil


SET_ASIDE: dict[str, tuple[Spoil, str]] = {
    "no status": (without("status"), "status is missing"),
    "null created_at": (members(createdAt=None), "createdAt"),
    "no time": (members(createdAt="soon"), "createdAt cannot be used"),
    "year 9999": (members(createdAt="9999-12-31T23:59:59.999Z"), "times cannot be used"),
    "beyond the calendar": (members(createdAt=2**62), "times cannot be used"),
    "number where text": (members(queueName=7), "queueName is not text"),
    "text where number": (members(priority="high"), "priority is not a whole number"),
    "list where text": (members(status=["SUCCESS"]), "status is not text"),
    "NaN where needed": (raw("updatedAt", b"NaN"), "updatedAt"),
    "too deep": (raw("somethingNew", deep(100_000)), "nested too deeply"),
    "no JSON": (raw("somethingNew", b"nul"), "it is not JSON"),
    "a name without end": (members(workflowName="n" * 4_097), "workflow_name is too long"),
    "attributes without end": (members(attributes="a" * 65_537), "attributes is too long"),
}
MENDED: dict[str, Spoil] = {
    "lone surrogate": raw("workflowName", b'"re\\ud800stock"'),
    "invalid UTF-8": raw("workflowName", b'"re\xff\xfestock"'),
    "NUL": members(workflowName="re\0stock"),
    "bare control character": raw("workflowName", b'"re\x00\x1bstock"'),
    "64 bits and more": members(priority=2**63, timeoutMs=-(2**70)),
    "4,300 digits and more": raw("priority", b"9" * 5000),
    "NaN": raw("timeoutMs", b"NaN"),
    "Infinity": raw("timeoutMs", b"-Infinity"),
    "deep enough to read": raw("somethingNew", deep(250)),
}
NAMELESS: dict[str, Spoil] = {
    "no id": without("workflowId"),
    "null id": members(workflowId=None),
    "number for an id": members(workflowId=7),
    "empty id": members(workflowId=""),
    "NUL in the id": members(workflowId="a\0b"),
    "half a character in the id": raw("workflowId", b'"a\\udc00"'),
    "no object": lambda _row: b"[1, null]",
}


@dataclass
class Conductor:
    """Has workflows, each as it would put it on the wire, and the filters that sync uses."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What they truly are, by a key of ours."""
    spoilt: dict[str, Spoil] = field(default_factory=dict)
    steps: bytes = b"[]"
    executors: bytes = b"[]"
    applications: bytes = json.dumps([APPLICATION]).encode()
    asked: list[str] = field(default_factory=list)
    texts_only_if_asked_for: bool = False
    offset: int = 0

    def put(self, *rows: dict[str, Any], spoil: Spoil | None = None) -> None:
        for each in rows:
            self.rows[each["workflowId"]] = each
            if spoil is not None:
                self.spoilt[each["workflowId"]] = spoil

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = await request.body()
        self.offset = int(request.query_params.get("offset", "0"))
        path = request.url.path.removeprefix("/v2/orgs/local/apps").removeprefix(f"/{APP}")
        self.asked.append(path)
        await self._answer(path, json.loads(body or b"{}"))(scope, receive, send)

    def _answer(self, path: str, query: dict[str, Any]) -> Response:
        match path:
            case "":
                return _json(self.applications)
            case "/executors":
                return _json(self.executors)
            case "/workflows/search":
                found = [key for key in self.rows if self._matches(key, query)]
                by_time = sorted(
                    found,
                    key=lambda key: self.rows[key]["createdAt"],
                    reverse=query.get("sortDesc", False),
                )
                start = query.get("offset", 0)
                page = by_time[start : start + query["limit"]]
                bare = self.texts_only_if_asked_for and "loadOutput" not in query
                texts = (self._text(key, bare=bare) for key in page)
                return _json(b"[" + b",".join(texts) + b"]")
            case "/workflows/aggregates":
                return _json(json.dumps(self._counts(query)).encode())
        steps = json.loads(self.steps)[self.offset :] if self.offset else None
        return _json(self.steps if steps is None else json.dumps(steps).encode())

    def _matches(self, key: str, query: dict[str, Any]) -> bool:
        row = self.rows[key]
        return (
            key in query.get("workflowIds", [key])
            and row["status"] in query.get("status", [row["status"]])
            and query.get("startTime", "") <= row["createdAt"] <= query.get("endTime", "9")
            and (row["completedAt"] or "") >= query.get("completedAfter", "")
            and (row.get("dequeuedAt") or "") >= query.get("dequeuedAfter", "")
        )

    def _text(self, key: str, *, bare: bool) -> bytes:
        row = {**self.rows[key], **({"error": None} if bare else {})}
        return self.spoilt[key](row) if key in self.spoilt else json.dumps(row).encode()

    def _counts(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        counts: dict[tuple[str, str], int] = {}
        for key in self.rows:
            if self._matches(key, query):
                row = self.rows[key]
                size = query.get("timeBucketSizeMs")
                created = parse_time(row["createdAt"])
                bucket = "" if size is None else str(created - created % size)
                counts[row["status"], bucket] = counts.get((row["status"], bucket), 0) + 1
        return [
            {"group": {"status": status, "time_bucket": bucket}, "count": count}
            for (status, bucket), count in counts.items()
        ]


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def told(site: Site) -> str:
    with site.cache.read() as connection:
        status = sync_status(connection, now=now_ms())
    return status_text(status, cache=site.cache.path, syncing="this process")


def aside(site: Site) -> list[unreadable.UnreadableRow]:
    with site.cache.read() as connection:
        return unreadable.workflows(connection, APP)


def assert_rebuilds(site: Site) -> None:
    with site.cache.write() as connection:
        assert all(table.equal for table in projector.rebuild(connection))


ALL = {**{name: spoil for name, (spoil, _) in SET_ASIDE.items()}, **MENDED, **NAMELESS}


@pytest.mark.parametrize("bad", [MENDED, SET_ASIDE, NAMELESS], ids=["mended", "aside", "nameless"])
async def test_bad_rows_hold_up_no_others(cache_path: Path, bad: Mapping[str, object]) -> None:
    conductor = Conductor()
    conductor.put(*(row(f"w-{minute}", minute) for minute in (0, 1, 2, 4, 5, 5, 5)))
    conductor.put(row("w-6", 6, "PENDING"))
    good = set(conductor.rows)
    for minute, name in enumerate(bad):
        status = "ERROR" if minute % 3 else "PENDING"
        conductor.put(row(name, minute, status), spoil=ALL[name])
    async with site_of(conductor, cache_path, page_limit=2) as site:
        assert (await site.sync()).error is None
        assert good <= site.mirrored().keys()
        conductor.put(row("new", 200), row("newer", 201, "PENDING"))
        await site.sync()
        assert {"new", "newer"} <= site.mirrored().keys()
        state = site.state()
        assert (state.history_complete, state.last_error) == (True, None)
        if bad is MENDED:
            assert bad.keys() <= site.mirrored().keys()
            assert "could not be read" not in told(site)
        else:
            assert not bad.keys() & site.mirrored().keys()
            assert f"{len(bad)} rows of shop could not be read" in told(site)
            noted = {each.workflow_id for each in aside(site)}
            assert noted == (set(bad) if bad is SET_ASIDE else {None})
        assert_rebuilds(site)


async def test_of_many_bad_rows_all_are_told_of_and_all_are_read_when_they_are_put_right(
    cache_path: Path,
) -> None:
    conductor = Conductor()
    conductor.put(row("w-1", 1), row("w-9", 200))
    for minute, name in enumerate([*SET_ASIDE, *NAMELESS]):
        conductor.put(row(name, minute, "ERROR"), spoil=ALL[name])
    async with site_of(conductor, cache_path) as site:
        await site.sync()
        assert f"{len(SET_ASIDE) + len(NAMELESS)} rows of shop could not be read" in told(site)
        reasons = {noted.workflow_id: noted.reason for noted in aside(site)}
        for name, (_, reason) in SET_ASIDE.items():
            assert reason in reasons[name]
        conductor.spoilt.clear()
        site.clock.ahead_ms += UNREADABLE_AGAIN_MS + 1
        await site.sync()
        site.clock.ahead_ms += AUDIT_EVERY_MS
        await site.sync()
        assert site.mirrored().keys() == conductor.rows.keys()
        assert "could not be read" not in told(site)


@pytest.mark.parametrize("status", ["SUCCESS", "PENDING"])
async def test_counts_that_differ_by_bad_rows_alone_are_not_looked_into_for_ever(
    cache_path: Path, status: str
) -> None:
    conductor = Conductor()
    conductor.put(*(row(f"w-{n}", n) for n in range(20)))
    conductor.put(*(row(f"p-{n}", n, "PENDING") for n in range(20)))
    names = ("no time", "number where text", "null id", "year 9999")
    for name in names:
        conductor.put(row(name, 3, status), spoil=ALL[name])
    async with site_of(conductor, cache_path) as site:
        for _ in range(3):
            await site.sync()
        for _ in range(4):
            site.clock.ahead_ms += AUDIT_EVERY_MS
            await site.sync()
            conductor.asked.clear()
            await site.sync()
            assert conductor.asked.count("/workflows/search") <= 3
        assert [noted.status for noted in aside(site)] == [status] * len(names)


async def test_a_workflow_that_was_read_and_turned_bad_is_kept_as_it_was(cache_path: Path) -> None:
    conductor = Conductor()
    conductor.put(row("w-1", 1), row("w-2", 2, "PENDING"), row("w-3", 250))
    async with site_of(conductor, cache_path) as site:
        await site.sync()
        conductor.put(row("w-2", 2, "ERROR"), spoil=members(createdAt="soon"))
        for _ in range(4):
            site.clock.ahead_ms += AUDIT_EVERY_MS
            await site.sync()
        assert site.mirrored()["w-2"]["status"] == "PENDING"
        assert [noted.status for noted in aside(site)] == ["ERROR"]
        del conductor.rows["w-2"]
        site.clock.ahead_ms += UNREADABLE_AGAIN_MS
        await site.sync()
        assert site.mirrored().keys() == {"w-1", "w-3"}
        assert not aside(site)


async def test_where_every_row_is_bad_the_look_still_comes_to_its_end(cache_path: Path) -> None:
    conductor = Conductor()
    for number in range(30):
        conductor.put(row(f"w-{number}", number), spoil=NAMELESS["no id"])
    async with site_of(conductor, cache_path, page_limit=4) as site:
        assert (await site.sync()).error is None
        assert site.mirrored() == {}
        assert "30 rows of shop could not be read" in told(site)


async def test_steps_that_cannot_be_read_are_set_aside_and_discard_none(cache_path: Path) -> None:
    conductor = Conductor()
    conductor.put(row("w-1", 1, "ERROR"))
    good = [{"stepId": n, "stepName": f"s{n}"} for n in (1, 2, 3)]
    conductor.steps = json.dumps(good).encode()
    async with site_of(conductor, cache_path) as site:
        await site.sync()
        for spoilt, subject in (
            ({"stepId": 2, "stepName": 5}, "step 2 of workflow w-1 (stepName is not text)"),
            ({"stepId": 2**64, "stepName": "s"}, "step without an id"),
            ({"stepName": "s"}, "step without an id"),
        ):
            conductor.steps = json.dumps([good[0], spoilt, {**good[2], "output": "new"}]).encode()
            await site.mirror.refresh_steps(APP, "w-1")
            assert [step["step_id"] for step in site.table(StepRow)] == [1, 2, 3]
            assert subject in told(site)
        conductor.steps = json.dumps(good[:2]).encode()
        await site.mirror.refresh_steps(APP, "w-1")
        assert [step["step_id"] for step in site.table(StepRow)] == [1, 2]
        assert "could not be read" not in told(site)
        assert_rebuilds(site)


async def test_applications_and_executors_that_cannot_be_read_are_not_taken_for_removed(
    cache_path: Path,
) -> None:
    conductor = Conductor()
    conductor.put(row("w-1", 1))
    executor = {"executorId": "e-1", "status": "HEALTHY", "createdAt": 1, "updatedAt": 1}
    billing = {"id": "2", "name": "billing", "status": "AWAY"}
    conductor.executors = json.dumps([executor]).encode()
    conductor.applications = json.dumps([APPLICATION, billing]).encode()
    async with site_of(conductor, cache_path) as site:
        await site.sync()
        position = len(site.new_events())
        assert position
        conductor.executors = json.dumps([{**executor, "status": None}]).encode()
        for bad in ({**billing, "status": 7}, {**billing, "name": None}, {**billing, "name": ""}):
            conductor.applications = json.dumps([APPLICATION, bad]).encode()
            site.clock.ahead_ms += 61_000
            assert (await site.sync()).error is None
            assert "1 row of the list of applications could not be read" in told(site)
        assert "executor e-1 (status is not text)" in told(site)
        assert site.news() == []
        conductor.applications = json.dumps([APPLICATION]).encode()
        await site.sync()
        assert [kind for kind, _ in site.news()] == ["ApplicationObserved"]


# Too much at once


async def test_rows_with_huge_texts_come_through_however_many(
    cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 300_000)
    conductor = Conductor()
    conductor.put(*(row(f"w-{n}", n, "ERROR", error="x" * 20_000) for n in range(60)))
    conductor.put(*(row(f"tie-{n}", 61, "ERROR", error="y" * 90_000) for n in range(9)))
    conductor.put(row("larger than all", 90, "ERROR", error="z" * 400_000), row("last", 91))
    async with site_of(conductor, cache_path) as site:
        assert (await site.sync()).error is None
        mirrored = site.mirrored()
        assert mirrored.keys() == conductor.rows.keys() - {"larger than all"}
        assert mirrored["w-7"]["error"].startswith("x" * 1000)
        assert "20000 characters in all" in mirrored["w-7"]["error"]
        assert "workflow larger than all (it is too large)" in told(site)
        assert site.state().history_complete
        assert_rebuilds(site)


async def test_a_text_that_is_too_large_is_left_out_and_its_workflow_is_not(
    cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 300_000)
    conductor = Conductor(texts_only_if_asked_for=True)
    conductor.put(
        row("small", 1, "ERROR", error="small"), row("big", 2, "ERROR", error="z" * 400_000)
    )
    async with site_of(conductor, cache_path) as site:
        await site.sync()
        errors = {key: each["error"] for key, each in site.mirrored().items()}
        assert errors == {"small": "small", "big": "… [not read: it is too large]"}
        conductor.asked.clear()
        await site.sync()
        assert conductor.asked.count("/workflows/search") <= 5  # and it is not asked for again


async def test_many_large_steps_are_read_in_parts(
    cache_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 300_000)
    conductor = Conductor()
    conductor.put(row("w-1", 1, "ERROR"))
    steps = [{"stepId": n, "stepName": "s", "output": "x" * 50_000} for n in range(30)]
    conductor.steps = json.dumps(steps).encode()
    async with site_of(conductor, cache_path) as site:
        await site.sync()
        assert [step["step_id"] for step in site.table(StepRow)] == list(range(30))


# Faults: what was learnt is kept, and nothing is taken for gone

WHATEVER: list[httpx.Response | Exception] = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout(""),
    httpx.ReadError("reset"),
    httpx.RemoteProtocolError("half"),
    *(problem(status) for status in (401, 403, 404, 422, 429, 500, 502, 503)),
    httpx.Response(204),
    httpx.Response(200, html="<html>"),
    httpx.Response(200, text="[{"),
    httpx.Response(200, json={}),
    httpx.Response(302, headers={"location": "http://elsewhere.test/"}),
]


async def test_after_faults_in_any_order_the_mirror_is_what_it_was_and_goes_on(
    cache_path: Path,
) -> None:
    chance = random.Random(3)
    conductor = Conductor()
    conductor.put(*(row(f"w-{n}", n) for n in range(30)), row("running", 31, "PENDING"))
    async with site_of(conductor, cache_path, page_limit=10) as site:
        await site.sync()
        before, state = site.mirrored(), site.state()
        site.new_events()
        for _ in range(40):
            first, fault = chance.randrange(8), chance.choice(WHATEVER)
            site.wire.asked.clear()
            site.wire.fault = lambda _: fault if len(site.wire.asked) > first else None  # noqa: B023
            site.client.traffic = Traffic(patience_seconds=0, reads_per_second=10_000)
            site.clock.ahead_ms += 61_000
            try:
                error = (await site.sync()).error
            except DbosMcpError as raised:
                error = raised
            if error is not None:
                assert site.state().last_error
            assert not [kind for kind, _ in site.news() if kind == "WorkflowDeleted"]
            assert site.mirrored() == before
            now = site.state()
            assert now.covered_since == state.covered_since
            assert now.history_complete
        site.wire.fault = lambda _: None
        site.client.traffic = Traffic(patience_seconds=0, reads_per_second=10_000)
        conductor.put(row("new", 200))
        assert (await site.sync()).error is None
        assert site.mirrored().keys() == {*before, "new"}
        assert (site.state().last_error, site.state().offline_since) == (None, None)
