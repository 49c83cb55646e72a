"""A config document as it was written: texts, lists and maps, each knowing its file and line.

- Nothing is guessed: YAML's own typing is not used, so `no`, `010` and `08:00` stay what was typed, and
  whoever reads a value says what it has to be.
- A key twice in one map is an error, so is any tag. Anchors, aliases and `<<` work.
- The environment lies over the file: see `overlay`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from chunkyd.errors import ConfigError
from chunkyd.settings.values import Value

# What Kubernetes puts into the environment of every container for a service that happens to be named like us.
_SERVICE_LINKS: Final = r"(?:[A-Z0-9]+_)*(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT(?:_\d+_(?:TCP|UDP|SCTP).*)?)"


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
    value = _parsed(text, path)
    return Value(f"{path}:1", {}) if value.content is None else value


def overlay(document: Value, prefix: str, reserved: frozenset[str], environ: Mapping[str, str]) -> Value:
    """The document with every `PREFIX_KEY__KEY` of the environment laid over it; an empty variable counts as unset.

    Two underscores go one level down. What takes one value takes the text as it is; what takes a list or a map
    reads it as YAML, and it replaces the file's.
    """
    names = [name for name, text in environ.items() if name.startswith(prefix) and name not in reserved and text]
    for name in sorted(names, key=lambda name: (name.count("__"), name)):
        if not re.fullmatch(_SERVICE_LINKS, name.removeprefix(prefix)):
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
        return _parsed(value.content, value.place, one_line=True)
    return value


def _parsed(text: str, source: str, *, one_line: bool = False) -> Value:
    from chunkyd.settings.yaml_text import parse  # a fifth of chunkyctl's start: only where it is needed

    return parse(text, source, one_line=one_line)
