"""server.json, as the MCP registry wants it, and as the program is."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dbos_mcp.settings import ENVIRONMENT, SEVERAL, Settings
from tests.packaging.built import ROOT, VERSION

SCHEMA = json.loads((Path(__file__).parent / "schemas" / "server.schema.json").read_text())
SERVER: dict[str, Any] = json.loads((ROOT / "server.json").read_text())
(PACKAGE,) = SERVER["packages"]
VARIABLES: dict[str, dict[str, Any]] = {
    variable["name"]: variable for variable in PACKAGE["environmentVariables"]
}


def test_it_is_as_the_registrys_schema_says() -> None:
    assert SERVER["$schema"] == SCHEMA["$id"]
    checker = jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    checker.check_schema(SCHEMA)
    checker.validate(SERVER)


@pytest.mark.parametrize(
    "broken", [{"description": "x" * 101}, {"name": "dbos-mcp"}, {"packages": [{}]}]
)
def test_the_schema_does_refuse(broken: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(SERVER | broken, SCHEMA)


def test_it_names_this_version_of_this_package() -> None:
    assert (SERVER["version"], PACKAGE["version"]) == (VERSION, VERSION)
    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()
    assert (PACKAGE["registryType"], PACKAGE["identifier"]) == ("pypi", "dbos-mcp")
    assert (PACKAGE["runtimeHint"], PACKAGE["transport"]) == ("uvx", {"type": "stdio"})


def test_the_readme_which_is_the_packages_description_owns_up_to_it() -> None:
    owned = re.findall(r"^<!-- mcp-name: (\S+) -->$", (ROOT / "README.md").read_text(), re.M)
    assert owned == [SERVER["name"]]


def test_its_variables_are_those_that_a_server_on_stdio_reads() -> None:
    read = {name for name in ENVIRONMENT if not name.startswith("DBOS_MCP_HTTP_")}
    assert VARIABLES.keys() == {*read, SEVERAL}


def test_what_is_secret_in_the_settings_is_secret_there() -> None:
    secret = {
        variable
        for variable, field in ENVIRONMENT.items()
        if "SecretStr" in str(Settings.model_fields[field].annotation)
    }
    assert {name for name, each in VARIABLES.items() if each.get("isSecret")} == secret
    assert not any("default" in VARIABLES[name] for name in secret)


def test_its_defaults_and_choices_are_the_settings_own() -> None:
    defaults = {name: each["default"] for name, each in VARIABLES.items() if "default" in each}
    assert Settings.from_env({"HOME": "/", **defaults}) == Settings.from_env({"HOME": "/"})
    for name, each in VARIABLES.items():
        kind = Settings.model_fields[ENVIRONMENT[name]].annotation if name in ENVIRONMENT else None
        known = [str(choice) for choice in getattr(kind, "__members__", {}).values()]
        assert each.get("choices", []) == known, name
