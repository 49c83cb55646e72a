"""Typed, strict reading of a document: every error names place, key and what was expected.

A `Section` is made with the keys it may have; another key is an error at once, with the nearest right one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from chunkyd.errors import ConfigError
from chunkyd.settings.document import structured
from chunkyd.settings.values import Value, shown

Read = TypeVar("Read")

_YES = frozenset({"true", "yes", "on"})
_NO = frozenset({"false", "no", "off"})


class Entry:
    """A value and the path of keys that leads to it."""

    def __init__(self, key: str, value: Value) -> None:
        self.key = key
        self.value = value

    def error(self, what: str, mend: str = "") -> ConfigError:
        """What is wrong here, with place and key."""
        return ConfigError(": ".join(part for part in (self.value.place, self.key, what) if part), mend=mend)

    def text(self) -> str:
        """One value, as it was written."""
        content = self.value.content
        if content is None:
            raise self.error("has no value", "Write one, or take the key out")
        if not isinstance(content, str):
            kind = "map" if isinstance(content, dict) else "list"
            raise self.error(f"takes one value, not a {kind}")
        if "\0" in content:
            raise self.error("holds a NUL")
        if not _encodable(content):
            raise self.error("holds half a character", "Bytes that are not UTF-8 are written \\udc80 to \\udcff")
        return content

    def items(self) -> list[Entry]:
        """The entries of a list; a key without a value is an empty one."""
        content = structured(self.value).content
        if content is None:
            return []
        if not isinstance(content, tuple):
            raise self.error("takes a list", "Write it like [one, two], or one entry a line after '- '")
        return [Entry(f"{self.key}[{index}]", item) for index, item in enumerate(content)]

    def named(self) -> dict[str, Entry]:
        """The entries of a map whose keys are the user's own; a key without a value is an empty one."""
        content = structured(self.value).content
        if content is None:
            return {}
        if not isinstance(content, dict):
            raise self.error("takes a map of keys and values")
        return {name: Entry(f"{self.key}.{name}" if self.key else name, item) for name, item in content.items()}

    def section(self, keys: Iterable[str]) -> Section:
        """A map that may have these keys and no others."""
        return Section(self, tuple(keys))

    def is_map(self) -> bool:
        """Whether a map is written here."""
        return isinstance(structured(self.value).content, dict)

    def is_one_of(self, *words: str) -> bool:
        """Whether exactly one of these words is written here."""
        return isinstance(self.value.content, str) and self.value.content in words


class Section:
    """A map with known keys."""

    def __init__(self, entry: Entry, keys: tuple[str, ...]) -> None:
        self._entry = entry
        self._entries = entry.named()
        for name, found in self._entries.items():
            if name not in keys:
                raise _unknown(found, name, keys)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def entry(self, key: str) -> Entry:
        """What is written for a key; an empty value where nothing is."""
        if key in self._entries:
            return self._entries[key]
        path = f"{self._entry.key}.{key}" if self._entry.key else key
        return Entry(path, Value(self._entry.value.place, None))

    def required(self, key: str, read: Callable[[Entry], Read], mend: str) -> Read:
        """The value of a key that has to be there."""
        if key not in self._entries:
            raise self.entry(key).error("missing", mend)
        return read(self._entries[key])

    def optional(self, key: str, read: Callable[[Entry], Read], default: Read) -> Read:
        """The value of a key, or the default where the key is not there."""
        return read(self._entries[key]) if key in self._entries else default


def keys_of(shape: type[msgspec.Struct]) -> tuple[str, ...]:
    """A section that is written just as its shape is named."""
    return tuple(field.name for field in msgspec.structs.fields(shape))


def _encodable(content: str) -> bool:
    try:
        os.fsencode(content)
    except UnicodeEncodeError:
        return False
    return True


def _unknown(found: Entry, name: str, keys: tuple[str, ...]) -> ConfigError:
    import difflib  # for mistakes alone

    near = difflib.get_close_matches(name.lower(), keys, n=1)
    if near:
        return found.error(f"unknown key; did you mean '{near[0]}'?")
    if found.value.content is None:
        return found.error("unknown key, without a value", "Inside { } a value with a comma in it needs quotes")
    return found.error("unknown key", f"Known here: {', '.join(keys)}")


def text(entry: Entry) -> str:
    """One value that is not empty."""
    if not entry.text():
        raise entry.error("is empty")
    return entry.text()


def texts(entry: Entry) -> tuple[str, ...]:
    """A list of values that are not empty."""
    return tuple(text(item) for item in entry.items())


def flag(entry: Entry) -> bool:
    """True or false."""
    written = entry.text().lower()
    if written not in _YES | _NO:
        raise entry.error(f"takes true or false, not {shown(entry.text())}")
    return written in _YES


def whole_number(least: int, most: int) -> Callable[[Entry], int]:
    """A reader of decimal numbers within limits."""

    def read(entry: Entry) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", entry.text(), re.ASCII):
            raise entry.error(f"takes a whole number, not {shown(entry.text())}")
        number = int(entry.text())
        if not least <= number <= most:
            raise entry.error(f"takes a whole number from {least} to {most}, not {number}")
        return number

    return read


def parsed(parse: Callable[[str], Read]) -> Callable[[Entry], Read]:
    """A reader over one of the parsers that raise ValueError with a sentence."""

    def read(entry: Entry) -> Read:
        try:
            return parse(entry.text())
        except ValueError as error:
            raise entry.error(str(error)) from error

    return read


def at_least(read: Callable[[Entry], float], least: float, as_written: str) -> Callable[[Entry], float]:
    """The same reader, with a lower limit, shown as people write it."""

    def read_limited(entry: Entry) -> float:
        number = read(entry)
        if number < least:
            raise entry.error(f"takes {as_written} at least, not {shown(entry.text())}")
        return number

    return read_limited


def or_word(word: str, read: Callable[[Entry], Read]) -> Callable[[Entry], Read | None]:
    """The same reader; one word (`auto`, `none`) stands for None."""

    def read_or_word(entry: Entry) -> Read | None:
        return None if entry.is_one_of(word) else read(entry)

    return read_or_word
