"""No secret in free text reaches the cache, and what was taken out is counted once."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from dbos_mcp.conductor.models import Executor
from dbos_mcp.queries.sync_status import sync_status
from dbos_mcp.redaction import Redactor
from dbos_mcp.redaction.rules import Rules
from dbos_mcp.server.sync_status import redacted_line
from dbos_mcp.settings import Payloads
from dbos_mcp.store import sync_state
from dbos_mcp.store.events import (
    KINDS,
    CommandIssued,
    CommandSettled,
    StepState,
    WorkflowChanged,
)
from dbos_mcp.sync import redacting
from dbos_mcp.sync.redacting import AS_IT_IS, FREE_TEXT, Upstream
from tests.upstream import APP, Site, below, open_site, pickled, problem, workflow

CANARY = "canary7Hq"
SECRET = f"password={CANARY}"
BORN = 1_790_000_000_000
READS = {"list_applications", "list_executors", "search_workflows", "list_steps"}


def counts(site: Site) -> dict[str, int]:
    with site.cache.read() as connection:
        return sync_state.redactions(connection).get(APP, {})


def stored(site: Site) -> bytes:
    """All that is in the cache's file."""
    site.cache.checkpoint(wal_limit_bytes=0)
    return site.cache.path.read_bytes()


def failed(workflow_id: str, **columns: Any) -> dict[str, Any]:
    secret = json.dumps({"db": {"password": CANARY}, "tenant": "acme"})
    return workflow(
        workflow_id,
        BORN,
        "ERROR",
        **{
            "inputs": pickled({"args": ((),), "kwargs": {"api_key": CANARY}}),
            "error": pickled(RuntimeError(f"{SECRET} was refused")),
            "attributes": secret,
            **columns,
        },
    )


async def test_no_secret_of_upstreams_free_text_is_in_the_file(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(
        empty_database, cache_path, payloads=Payloads.ALL, history_ms=None
    ) as site:
        site.tables.add(failed("w"))
        site.tables.add_step("w", 0, "pay", SECRET)
        site.tables.add_step("w", 1, "log in", output={"access_token": CANARY})
        await site.sync_until_steps_are_read()
        site.wire.fault = below("/cancel", lambda: problem(422, SECRET))
        site.tables.add(workflow("runs", BORN, "PENDING"))
        await site.commands.cancel(APP, ["runs"])
        site.wire.fault = below("/search", lambda: problem(422, SECRET))
        await site.sync()
        assert CANARY not in (site.state().last_error or CANARY)
        assert site.mirrored()["w"]["attributes"] == json.dumps(
            {"db": {"password": "[redacted:password]"}, "tenant": "acme"}
        )
        assert "password=[redacted:password] was refused" in site.mirrored()["w"]["error"]
        assert CANARY.encode() not in stored(site)
        assert counts(site)["password"] >= 6


async def test_what_is_switched_off_is_not_redacted(empty_database: Path, cache_path: Path) -> None:
    async with open_site(empty_database, cache_path, history_ms=None, rules=None) as site:
        site.tables.add(failed("w"))
        await site.sync()
        assert CANARY.encode() in stored(site)
        assert counts(site) == {}


async def test_what_did_not_change_is_neither_recorded_nor_counted_again(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, history_ms=None) as site:
        site.tables.add(failed("w"))
        await site.sync()
        before = counts(site)
        assert before == {"password": 2}
        site.news()

        await site.mirror.refresh_workflows(APP, ["w"])
        assert site.news() == []
        assert counts(site) == before

        # Another secret in the same place is the same text to the mirror.
        site.tables.update(
            "w", attributes=json.dumps({"db": {"password": "hunter2"}, "tenant": "acme"})
        )
        await site.mirror.refresh_workflows(APP, ["w"])
        assert site.news() == []


async def test_a_row_that_was_stored_with_its_secret_is_redacted_at_the_next_look(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, history_ms=None, rules=None) as site:
        site.tables.add(failed("w"))
        await site.sync()
    async with open_site(empty_database, cache_path, history_ms=None) as site:
        site.new_events()
        await site.mirror.refresh_workflows(APP, ["w"])
        (recorded,) = site.new_events()
        assert isinstance(recorded.event, WorkflowChanged)
        assert CANARY not in str(site.mirrored()["w"]["attributes"])
        await site.mirror.refresh_workflows(APP, ["w"])
        assert site.news() == []


async def test_the_status_tells_how_many_of_which_kind(
    empty_database: Path, cache_path: Path
) -> None:
    async with open_site(empty_database, cache_path, history_ms=None) as site:
        token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n"
        site.tables.add(failed("w", attributes=json.dumps({"note": f"{token} for [redacted:x]"})))
        await site.sync()
        with site.cache.read() as connection:
            (item,) = sync_status(connection, now=BORN).applications
        assert redacted_line(item) == "shop: redacted before storing: 1 JWT, 1 password."


async def test_own_rules_are_applied(empty_database: Path, cache_path: Path) -> None:
    rules = Rules(names=("customer_pin",))
    async with open_site(empty_database, cache_path, history_ms=None, rules=rules) as site:
        site.tables.add(failed("w", attributes=json.dumps({"customerPin": 1234, "pin": 1})))
        await site.sync()
        assert site.mirrored()["w"]["attributes"] == (
            '{"customerPin": "[redacted:password]", "pin": 1}'
        )


def test_the_metadata_of_executors_and_what_commands_say_is_redacted() -> None:
    upstream = Upstream(None, Redactor())  # type: ignore[arg-type] # it is not asked
    executor = Executor(
        executor_id="e",
        status="CONNECTED",
        created_at=1,
        updated_at=1,
        executor_metadata={"env": {"DB_PASSWORD": CANARY, "HOME": "/srv"}},
    )
    assert upstream.without_secrets(executor).executor_metadata == {
        "env": {"DB_PASSWORD": "[redacted:password]", "HOME": "/srv"}
    }
    issued = CommandIssued(
        application_name=APP, command_id="c", command="fork", arguments={"queue_name": SECRET}
    )
    settled = CommandSettled(application_name=APP, command_id="c", outcome="failed", detail=SECRET)
    for event in (issued, settled):
        assert CANARY not in upstream.without_secrets(event).data()


def texts_of(kind: type[BaseModel]) -> Iterator[str]:
    """The fields that hold text, those of what is in them included."""
    for name, field in kind.model_fields.items():
        if name == "steps":
            yield from texts_of(StepState)
        elif "str" in str(field.annotation) or "JsonValue" in str(field.annotation):
            yield name


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_each_text_of_an_event_is_redacted_or_there_is_a_reason_why_not(
    kind: type[BaseModel],
) -> None:
    names = set(texts_of(kind))
    assert names
    redacted = frozenset().union(*FREE_TEXT.values())
    assert names <= redacted | AS_IT_IS.keys()
    assert not redacted & AS_IT_IS.keys()


def test_each_reason_is_of_a_text_that_there_is() -> None:
    assert AS_IT_IS.keys() <= {name for kind in KINDS.values() for name in texts_of(kind)}


def test_sync_reads_what_it_stores_in_one_place_only() -> None:
    """Whoever asks the client directly passes by the redaction."""
    folder = Path(redacting.__file__).parent
    for module in folder.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in READS:
                asked = ast.unparse(node.value)
                is_here = module.name == "redacting.py" and asked == "self._client"
                assert is_here or asked.endswith("upstream"), f"{module.name}: {ast.unparse(node)}"
