"""The templates that ship with the package. Whatever is put into one is escaped: names, ids and
errors are the application's words. Nor can it hide anything, or turn the text around."""

from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dbos_mcp.domain import format_duration, visible


def _finalize(value: object) -> object:
    return value if isinstance(value, Markup) or not isinstance(value, str) else visible(value)


ENVIRONMENT = Environment(
    loader=PackageLoader("dbos_mcp.report"),
    autoescape=True,
    finalize=_finalize,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters |= {
    "capitalise": lambda text: text[:1].upper() + text[1:],
    "duration": lambda ms: "" if ms is None else format_duration(ms),
    "many": lambda count, noun: f"{count:,} {noun}" + ("" if count == 1 else "s"),
    "number": lambda count: f"{count:,}",
}


def filled(template: str, values: Mapping[str, object]) -> Markup:
    rendered = ENVIRONMENT.get_template(template).render(values)
    return Markup(rendered)  # noqa: S704 # by autoescape
