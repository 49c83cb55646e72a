"""A value of a configuration, which knows the place it was written at."""

from __future__ import annotations

import msgspec

_LONGEST_SHOWN = 60


class Value(msgspec.Struct, frozen=True):
    """What stands at one place; `content` None is a key without a value."""

    place: str
    content: str | tuple[Value, ...] | dict[str, Value] | None
    from_environment: bool = False


def shown(text: str) -> str:
    """What was written, as a message quotes it: not at any length."""
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")
