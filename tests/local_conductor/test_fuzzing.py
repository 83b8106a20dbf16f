"""Whatever the published document allows or forbids, the answer is one that it describes."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.config import (
    ChecksConfig,
    GenerationConfig,
    NotAServerErrorConfig,
    ProjectConfig,
    ProjectsConfig,
    SchemathesisConfig,
    SimpleCheckConfig,
)
from schemathesis.engine import events
from schemathesis.engine.recorder import ScenarioRecorder

from dbos_mcp.local_conductor.app import OPERATIONS, create_app
from dbos_mcp.local_conductor.system_database import SystemDatabase
from tests.local_conductor.openapi import document

pytestmark = pytest.mark.slow

# Off: an unknown workflow has no events (as upstream), rather than being unknown; the 500s of
# `EXECUTOR_THROWS` are looked at below; NUL is text for JSON, but for no database.
OFF = SimpleCheckConfig(enabled=False)
CONFIG = SchemathesisConfig(
    seed=1,
    projects=ProjectsConfig(
        default=ProjectConfig(
            checks=ChecksConfig(
                use_after_free=OFF, not_a_server_error=NotAServerErrorConfig(enabled=False)
            ),
            generation=GenerationConfig(max_examples=25, deterministic=True, allow_x00=False),
            parameters={"path.orgName": "local", "path.appName": "shop"},
        )
    ),
)
EXECUTOR_THROWS = (
    "At least one groupBy",
    "DBOS Error: Filtering workflows by attributes",
    "Filtering workflows by attributes",
    "There is no step",
)
LEAST = {"limit": 0, "offset": 0, "timeBucketSizeMs": 1}


def test_an_answer_is_one_that_the_document_describes(shop_database: Path) -> None:
    """Through the engine, for schemathesis 4's own pytest plugin does not know pytest 9."""
    database = SystemDatabase(f"sqlite:///{shop_database}")
    schema = schemathesis.openapi.from_dict(fuzzed_document(), config=CONFIG)
    schema.app = create_app(database)
    problems: list[str] = []
    asked: set[str] = set()
    for event in schemathesis.engine.from_schema(schema).execute():
        match event:
            case events.ScenarioFinished(recorder=recorder):
                asked |= {node.value.operation.label for node in recorder.cases.values()}
                problems += failures(recorder)
            case events.NonFatalError(value=error) | events.FatalError(exception=error):
                problems.append(repr(error))
    database.close()
    assert not problems, "\n".join(problems)
    assert len(asked) == len(OPERATIONS) - 1


def failures(recorder: ScenarioRecorder) -> Iterator[str]:
    for checks in recorder.checks.values():
        for check in checks:
            if check.failure_info is not None:
                yield f"{check.failure_info.code_sample}\n{check.failure_info.failure}"
    for interaction in recorder.interactions.values():
        answer = interaction.response
        if answer is not None and answer.status_code >= 500:
            detail = answer.json()["detail"]
            if not detail.startswith(EXECUTOR_THROWS):
                yield f"{interaction.request.method} {interaction.request.uri}\n{detail}"


def fuzzed_document() -> dict[str, Any]:
    """The published document, cut down to what is served, without its login, and with what it
    leaves open: the smallest numbers, that an id is not blank, and that a fork from failure names
    one way to find the step. A backfill of two thousand years is not asked for."""
    served = {
        (operation.path, operation.method.lower())
        for operation in OPERATIONS
        if not operation.path.endswith("/backfill")
    }
    paths: dict[str, Any] = {}
    for path, methods in document()["paths"].items():
        for method, what in methods.items():
            if (path, method) in served:
                without_login = {key: value for key, value in what.items() if key != "security"}
                paths.setdefault(path, {})[method] = without_login
    fuzzed = copy.deepcopy({**document(), "paths": paths, "security": []})
    set_least(fuzzed)
    schemas = fuzzed["components"]["schemas"]
    schemas["ForkWorkflowInputBody"]["properties"]["newWorkflowId"]["pattern"] = r"\S"
    one_way = {"workflowIds", "fromLastFailure", "appVersion", "queueName", "queuePartitionKey"}
    forks = schemas["BulkForkFromFailureBody"]
    forks["properties"] = {name: forks["properties"][name] for name in one_way}
    forks["properties"]["fromLastFailure"]["const"] = True
    forks["required"] += ["fromLastFailure"]
    return fuzzed


def set_least(node: object) -> None:
    match node:
        case {"name": str(name), "schema": dict(schema)} if name in LEAST:
            schema["minimum"] = LEAST[name]
        case {"properties": dict(properties)}:
            for name in LEAST.keys() & properties.keys():
                properties[name]["minimum"] = LEAST[name]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        set_least(child)
