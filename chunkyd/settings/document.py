"""A config document as it was written: texts, lists and maps, each knowing its file and line.

- Nothing is guessed: YAML's own typing is not used, so `no`, `010` and `08:00` stay what was typed, and
  whoever reads a value says what it has to be.
- A key twice in one map is an error, so is any tag. Anchors, aliases and `<<` work.
- The environment lies over the file: see `overlay`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
import yaml

from chunkyd.errors import ConfigError

_PLAIN_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value")
) | {"tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}
_NULL: Final = "tag:yaml.org,2002:null"
_MERGE: Final = "tag:yaml.org,2002:merge"
_QUOTING: Final = "A value that begins with one of * & ! [ { % @ ` or holds ': ' or ' #' needs quotes"

# What Kubernetes puts into the environment of every container for a service that happens to be named like us.
_SERVICE_LINKS: Final = re.compile(
    r"(?:[A-Z0-9]+_)*(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT(?:_\d+_(?:TCP|UDP|SCTP).*)?)"
)


class Value(msgspec.Struct, frozen=True):
    """What stands at one place; `content` None is a key without a value."""

    place: str
    content: str | tuple[Value, ...] | dict[str, Value] | None
    from_environment: bool = False


def read_document(path: str) -> Value:
    """The document in this file; an empty one is an empty map."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        mend = "Name another with --config, or make this one readable"
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", mend=mend) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8", mend="Save the file as UTF-8") from error
    value = parse(text, path)
    return Value(f"{path}:1", {}) if value.content is None else value


def parse(text: str, source: str, *, one_line: bool = False) -> Value:
    """The YAML in `text`; `source` is the file, or with `one_line` the whole place."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{_place(source, line, one_line)}: not YAML: {what}", mend=_QUOTING) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"the character U+{ord(text[error.position]):04X} is not allowed"
        raise ConfigError(f"{_place(source, line, one_line)}: not YAML: {what}", mend="Take it out") from error
    except (RecursionError, ValueError, OverflowError) as error:
        raise ConfigError(f"{_place(source, 1, one_line)}: not YAML that can be understood") from error
    if node is None:
        return Value(_place(source, 1, one_line), None)
    return _Builder(source, one_line).build(node)


def _place(source: str, line: int, one_line: bool) -> str:
    return source if one_line else f"{source}:{line}"


class _Builder:
    """Turns YAML's nodes into values; knows which nodes it is inside of, so that an alias of itself is noticed."""

    def __init__(self, source: str, one_line: bool) -> None:
        self._source = source
        self._one_line = one_line
        self._inside: list[int] = []
        self._built: dict[int, Value] = {}

    def build(self, node: yaml.Node) -> Value:
        """The value of a node. What an alias names is built once: nested aliases cannot multiply."""
        known = self._built.get(id(node))
        if known is not None:
            return known
        place = self._place_of(node)
        if node.tag not in _PLAIN_TAGS:
            shown = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise ConfigError(f"{place}: the tag {shown} is not allowed", mend=_QUOTING)
        if id(node) in self._inside:
            raise ConfigError(f"{place}: an alias inside of what it names", mend="Write the value out")
        self._inside.append(id(node))
        value = Value(place, self._content(node), from_environment=self._one_line)
        self._inside.pop()
        self._built[id(node)] = value
        return value

    def _place_of(self, node: yaml.Node) -> str:
        return _place(self._source, node.start_mark.line + 1, self._one_line)

    def _content(self, node: yaml.Node) -> str | tuple[Value, ...] | dict[str, Value] | None:
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.build(item) for item in node.value)
        if isinstance(node, yaml.MappingNode):
            return self._map(node)
        return None if node.tag == _NULL else str(node.value)

    def _map(self, node: yaml.MappingNode) -> dict[str, Value]:
        own: dict[str, Value] = {}
        merged: dict[str, Value] = {}
        for key, content in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _PLAIN_TAGS:
                raise ConfigError(f"{self._place_of(key)}: a key has to be a plain word")
            if key.tag == _MERGE:
                merged |= {name: value for name, value in self._merged(content) if name not in merged}
            elif key.value in own:
                raise ConfigError(f"{self._place_of(key)}: {key.value}: the key is there twice", mend="Keep one")
            else:
                own[key.value] = msgspec.structs.replace(self.build(content), place=self._place_of(key))
        return merged | own

    def _merged(self, node: yaml.Node) -> Iterator[tuple[str, Value]]:
        """What `<<` brings in: one map, or several, the first of which wins."""
        value = self.build(node)
        sources = value.content if isinstance(value.content, tuple) else (value,)
        for source in reversed(sources):
            if not isinstance(source.content, dict):
                raise ConfigError(f"{value.place}: << takes a map, or a list of maps")
            yield from source.content.items()


def overlay(document: Value, prefix: str, reserved: frozenset[str], environ: Mapping[str, str]) -> Value:
    """The document with every `PREFIX_KEY__KEY` of the environment laid over it; an empty variable counts as unset.

    Two underscores go one level down. What takes one value takes the text as it is; what takes a list or a map
    reads it as YAML, and it replaces the file's.
    """
    names = [name for name, text in environ.items() if name.startswith(prefix) and name not in reserved and text]
    for name in sorted(names, key=lambda name: (name.count("__"), name)):
        if not _SERVICE_LINKS.fullmatch(name.removeprefix(prefix)):
            keys = name.removeprefix(prefix).lower().split("__")
            document = _laid_over(document, keys, Value(f"${name}", environ[name], from_environment=True))
    return document


def has_overlay(prefix: str, reserved: frozenset[str], environ: Mapping[str, str]) -> bool:
    """Whether the environment holds any setting."""
    return overlay(empty(), prefix, reserved, environ).content != {}


def empty() -> Value:
    """A document that says nothing."""
    return Value("the configuration", {})


def _laid_over(below: Value, keys: list[str], value: Value) -> Value:
    if not keys:
        return value
    below = structured(below)
    content = {} if below.content is None else below.content
    if not isinstance(content, dict):
        mend = "Give the whole value, as YAML, in the variable of the key above"
        raise ConfigError(f"{value.place}: there is no map that it could be part of", mend=mend)
    inner = content.get(keys[0], Value(value.place, {}))
    return msgspec.structs.replace(below, content=content | {keys[0]: _laid_over(inner, keys[1:], value)})


def structured(value: Value) -> Value:
    """A text of the environment read as YAML, for a key that takes a list or a map; all else as it is."""
    if value.from_environment and isinstance(value.content, str):
        return parse(value.content, value.place, one_line=True)
    return value
