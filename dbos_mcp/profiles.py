"""dbosctl's profiles: which Conductors there are, and how one logs in to each. Read, never written.

A value means what it means to dbosctl, which reads every scalar as text: a profile may be called
`no`, `0123` or `2026-01-01`, and only a plain `null` or `~` is nothing. So YAML's types are left
aside, and what the file may hold is said by `Profile`.
"""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dbos_mcp.domain import one_line
from dbos_mcp.errors import UsageError

if TYPE_CHECKING:
    from yaml import Node

_LARGEST_BYTES = 100_000
_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))
_NULLS = ("", "~", "null", "Null", "NULL")

BLANK_IS_ABSENT = BeforeValidator(lambda value: None if value in ("", 0) else value)
"""dbosctl, written in Go, leaves out what is zero, and takes what is left out for zero."""

_Text = Annotated[str | None, BLANK_IS_ABSENT]


@dataclass(frozen=True)
class Oidc:
    """Where a self-hosted Conductor's users log in."""

    issuer: _Text = None
    client_id: Annotated[_Text, Field(alias="clientID")] = None
    audience: _Text = None


class Profile(BaseModel):
    """One profile, as written: nothing is derived from it yet."""

    model_config = ConfigDict(frozen=True)

    domain: _Text = None
    url: _Text = Field(None, repr=False)  # it may hold a password
    auth: Annotated[Literal["bearer", "none"] | None, BLANK_IS_ABSENT] = None
    org: _Text = None
    oidc: Oidc | None = None


@dataclass(frozen=True)
class Profiles:
    """The profiles of one folder: where dbosctl keeps config.yaml and credentials.json.

    One that cannot be used is in `damaged`, with the reason, so that the others can be.
    """

    folder: Path
    current: str | None
    profiles: Mapping[str, Profile]
    damaged: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str) -> Profile:
        """The profile of that name.

        Raises:
            UsageError: there is none, or it cannot be used.
        """
        if name in self.profiles:
            return self.profiles[name]
        path = _config(self.folder)
        if name in self.damaged:
            raise UsageError(
                f"The profile {one_line(name)} in {path} cannot be used: {self.damaged[name]}.",
                hint="Correct the file, or choose another profile.",
            )
        known = [*self.profiles, *self.damaged]
        hint = f"The profiles are: {one_line(', '.join(known), 1000)}."
        if not known:
            hint = "It holds no profiles: `dbosctl config set NAME` makes one."
        elif near := difflib.get_close_matches(name, known, 1):
            hint = f"Did you mean {one_line(near[0])}? {hint}"
        raise UsageError(f"There is no profile {one_line(name)} in {path}.", hint=hint)


def config_folder(environ: Mapping[str, str], home: Path, platform: str = sys.platform) -> Path:
    """Where dbosctl keeps its files: Go's `os.UserConfigDir()`, and `dbos` in it."""
    if platform == "darwin":
        parent = home / "Library" / "Application Support"
    elif platform == "win32":
        parent = Path(environ.get("APPDATA") or home / "AppData" / "Roaming")
    else:
        chosen = Path(environ.get("XDG_CONFIG_HOME", ""))
        parent = chosen if chosen.is_absolute() else home / ".config"
    return parent / "dbos"


def load_profiles(folder: Path) -> Profiles:
    """The profiles in a folder; none if there is no file.

    Raises:
        UsageError: the file cannot be used. It says where, and never a value of the file.
    """
    path = _config(folder)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except FileNotFoundError:
        return Profiles(folder, None, {})
    except OSError as error:
        raise UsageError(
            f"dbosctl's profiles in {path} cannot be read: {error.strerror}.",
            hint="Make the file readable, or move it away.",
        ) from error
    try:
        return _parse(folder, content)
    except _FileError as error:
        fault = str(error)
    raise UsageError(
        f"dbosctl's profiles in {path} cannot be used: {fault}.",
        hint="Correct the file, or move it away.",
    )


def _config(folder: Path) -> Path:
    return folder / "config.yaml"


class _FileError(Exception):
    """What is wrong where in the file."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(f"line {line}: {what}")


def _parse(folder: Path, content: bytes) -> Profiles:
    if len(content) > _LARGEST_BYTES:
        raise _FileError(1, "the file is larger than 100 kB")
    root = _compose(content)
    top = _mapping(root) if root is not None else {}
    current = _plain(top["current"]) if "current" in top else None
    if not isinstance(current, str | None):
        raise _FileError(_line(top["current"]), "the name of a profile was expected")
    written = _mapping(top["profiles"]) if "profiles" in top else {}
    profiles: dict[str, Profile] = {}
    damaged: dict[str, str] = {}
    for name, node in written.items():
        try:
            fields = {key: _plain(value) for key, value in _mapping(node).items()}
            profiles[name] = Profile.model_validate(fields)
        except _FileError as error:
            damaged[name] = str(error)
        except ValidationError as error:
            fault = error.errors(include_input=False, include_url=False)[0]
            damaged[name] = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}"
    return Profiles(folder, current or None, profiles, damaged)


def _compose(content: bytes) -> "Node | None":
    """The first document, which is all that dbosctl reads, as nodes that know their lines."""
    import yaml

    class Loader(yaml.BaseLoader):
        def compose_node(self, parent: "Node | None", index: int) -> "Node | None":
            if not self.check_event(yaml.AliasEvent):
                return super().compose_node(parent, index)
            alias = self.get_event()  # type: ignore[no-untyped-call]
            # Not the node it stands for: a few lines of aliases are gigabytes when written out.
            return yaml.ScalarNode("alias", "", alias.start_mark, alias.end_mark)

    line = 0
    try:
        text = content.decode("utf-8-sig")
        loader = Loader(text)
        try:
            return loader.get_node() if loader.check_node() else None
        finally:
            line = loader.line
            loader.dispose()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
    # An escape of no character is a ValueError or an OverflowError.
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        pass
    # Outside the handler: the parser's error holds the file's text.
    raise _FileError(line + 1, "this cannot be read as YAML")


def _mapping(node: "Node") -> "dict[str, Node]":
    from yaml import MappingNode

    if not isinstance(node, MappingNode):
        if _plain(node) is None:
            return {}
        raise _FileError(_line(node), "names and their values were expected")
    _refuse_tag(node)
    fields: dict[str, Node] = {}
    for key, value in node.value:
        name = _plain(key)
        if name is None:  # dbosctl passes over it
            continue
        if not isinstance(name, str):
            raise _FileError(_line(key), "a name was expected")
        if name == "<<" and key.style is None:
            raise _FileError(_line(key), "a merge is not read here, write the values out")
        if name in fields:
            raise _FileError(_line(key), "this name is there already")
        fields[name] = value
    return fields


def _plain(node: "Node") -> Any:
    from yaml import ScalarNode, SequenceNode

    _refuse_tag(node)
    if isinstance(node, SequenceNode):
        return [_plain(item) for item in node.value]
    if not isinstance(node, ScalarNode):
        return {key: _plain(value) for key, value in _mapping(node).items()}
    if any("\ud800" <= character <= "\udfff" for character in node.value):
        raise _FileError(_line(node), "half a character")
    return None if node.style is None and node.value in _NULLS else node.value


def _refuse_tag(node: "Node") -> None:
    if node.tag not in _TAGS:
        raise _FileError(_line(node), "an alias or a tag is not read here, write the value out")


def _line(node: "Node") -> int:
    return int(node.start_mark.line) + 1
