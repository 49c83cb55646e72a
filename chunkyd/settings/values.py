"""A value of a configuration, which knows the place it was written at."""

from __future__ import annotations

import msgspec


class Value(msgspec.Struct, frozen=True):
    """What stands at one place; `content` None is a key without a value."""

    place: str
    content: str | tuple[Value, ...] | dict[str, Value] | None
    from_environment: bool = False
