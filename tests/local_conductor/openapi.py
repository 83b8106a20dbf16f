"""The published OpenAPI document of the Conductor API v2, held against what was really answered.

The document is not ours to ship: it is looked for in the folder `shared` beside the repository, or
where `DBOS_MCP_OPENAPI` says.
"""

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

DOCUMENT = Path(
    os.environ.get(
        "DBOS_MCP_OPENAPI", Path(__file__).parents[3] / "shared" / "conductor" / "openapi.json"
    )
)
_IS_HERE = DOCUMENT.exists()
_URI = "urn:conductor"


@cache
def document() -> dict[str, Any]:
    """Skips the test where the document is absent."""
    if not _IS_HERE:
        pytest.skip(f"no OpenAPI document at {DOCUMENT}: nothing was held against the contract")
    loaded: dict[str, Any] = json.loads(DOCUMENT.read_text())
    return loaded


async def check_response(response: httpx.Response) -> None:
    """A hook of httpx: holds each answer against the document."""
    await response.aread()
    if _IS_HERE and response.request.method != "HEAD":
        _check(response)


def _check(response: httpx.Response) -> None:
    pointer = _declaration(response)
    if response.is_error:
        assert response.headers["content-type"] == "application/problem+json"
        _validate(response, "components", "schemas", "ErrorModel")
        assert response.json()["status"] == response.status_code
    elif pointer:
        _check_success(response, *pointer)


def _declaration(response: httpx.Response) -> list[str] | None:
    """Where the document has the answers to this request. `a/search` comes before `a/{id}`."""
    sent = response.request.url.raw_path.decode().partition("?")[0]
    method = response.request.method.lower()
    for path in sorted(document()["paths"], key=lambda path: path.count("{")):
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))
        if re.fullmatch(pattern, sent) and method in document()["paths"][path]:
            return ["paths", path, method, "responses"]
    return None


def _check_success(response: httpx.Response, *pointer: str) -> None:
    *parents, responses = pointer
    _, path, method = parents
    declared = document()["paths"][path][method][responses][str(response.status_code)]
    assert declared.get("headers", {}).keys() <= {name.title() for name in response.headers}
    if "content" not in declared:
        assert response.content == b""
        return
    media_type = response.headers["content-type"]
    assert media_type in declared["content"]
    _validate(response, *pointer, str(response.status_code), "content", media_type, "schema")


def _validate(response: httpx.Response, *pointer: str) -> None:
    fragment = "/".join(part.replace("/", "~1") for part in pointer)
    jsonschema.Draft202012Validator(
        {"$ref": f"{_URI}#/{fragment}"},
        registry=_registry(),
        format_checker=jsonschema.FormatChecker(),
    ).validate(response.json())


@cache
def _registry() -> Registry[Any]:
    resource = Resource.from_contents(document(), default_specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource(_URI, resource)
    return registry
