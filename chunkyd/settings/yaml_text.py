"""YAML, read: the one door to PyYAML on the way in. What it refuses is said with its line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
import yaml

from chunkyd.errors import ConfigError
from chunkyd.settings.values import Value

_PLAIN_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "timestamp", "merge", "value")
) | {"tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}
_NULL: Final = "tag:yaml.org,2002:null"
_MERGE: Final = "tag:yaml.org,2002:merge"
_QUOTING: Final = "A value that begins with one of * & ! [ { % @ ` or holds ': ' or ' #' needs quotes"


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
