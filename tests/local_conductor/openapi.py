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
_URI = "urn:conductor"


@cache
def document() -> dict[str, Any]:
    """Skips the test where the document is absent."""
    if not DOCUMENT.exists():
        pytest.skip(f"no OpenAPI document at {DOCUMENT}: nothing was held against the contract")
    loaded: dict[str, Any] = json.loads(DOCUMENT.read_text())
    return loaded


def check_answer(method: str, path: str, response: httpx.Response) -> None:
    """`path` is the document's, with its `{parameters}`."""
    operation = document()["paths"][path][method.lower()]
    status = str(response.status_code)
    documented = status if status in operation["responses"] else "default"
    declared = operation["responses"][documented]
    if "content" not in declared:
        assert response.content == b""
        return
    media_type = response.headers["content-type"]
    assert media_type in declared["content"]
    assert declared.get("headers", {}).keys() <= {name.title() for name in response.headers}
    pointer = "/".join(
        part.replace("/", "~1")
        for part in ("paths", path, method.lower(), "responses", documented, "content", media_type)
    )
    schema = {"$ref": f"{_URI}#/{pointer}/schema"}
    jsonschema.Draft202012Validator(
        schema, registry=_registry(), format_checker=jsonschema.FormatChecker()
    ).validate(response.json())


async def check_response(response: httpx.Response) -> None:
    """A hook of httpx: holds each answer to an operation of the document against it."""
    await response.aread()
    _check(response)


def _check(response: httpx.Response) -> None:
    if not DOCUMENT.exists():
        return
    sent = response.request.url.raw_path.decode().partition("?")[0]
    for path in sorted(document()["paths"], key=lambda path: path.count("{")):
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))
        method = response.request.method
        if re.fullmatch(pattern, sent) and method.lower() in document()["paths"][path]:
            check_answer(method, path, response)
            return


@cache
def _registry() -> Registry[Any]:
    resource = Resource.from_contents(document(), default_specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource(_URI, resource)
    return registry
