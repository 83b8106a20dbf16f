"""The URIs of the resources. Names and ids are other people's, so they are percent-encoded."""

from dataclasses import dataclass

from mcp.shared.uri_template import UriTemplate

SYNC_STATUS = "dbos://sync-status"
SCHEMA = "dbos://schema"
_APPLICATION = "dbos://applications/{application_name}"
WORKFLOW = f"{_APPLICATION}/workflows/{{workflow_id}}"
FAILURES = f"{_APPLICATION}/failures"
FAILURE_GROUP = f"{FAILURES}/{{group}}"
PROFILE = "{?profile}"
"""Behind each template where there are several profiles; the first one is meant without it."""

_TEMPLATES = {
    template: UriTemplate.parse(template + PROFILE)
    for template in (WORKFLOW, FAILURES, FAILURE_GROUP)
}
_SYNC_STATUS_OF = UriTemplate.parse(f"{SYNC_STATUS}/{{profile}}")


@dataclass(frozen=True)
class Address:
    """What a URI names: one of the above, and the values in it."""

    of: str
    values: dict[str, str]

    @property
    def profile(self) -> str | None:
        return self.values.get("profile")


def uri_of(template: str, profile: str | None = None, **values: str) -> str:
    given = values if profile is None else values | {"profile": profile}
    return _TEMPLATES[template].expand(given)


def sync_status_of(profile: str | None) -> str:
    return SYNC_STATUS if profile is None else _SYNC_STATUS_OF.expand({"profile": profile})


def parse(uri: str) -> Address | None:
    """None: no resource here has such a URI."""
    if uri in (SYNC_STATUS, SCHEMA):
        return Address(uri, {})
    for of, template in ((SYNC_STATUS, _SYNC_STATUS_OF), *_TEMPLATES.items()):
        values = template.match(uri)
        if values is not None:
            return Address(of, {name: str(value) for name, value in values.items()})
    return None
