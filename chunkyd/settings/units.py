"""Sizes, durations and rates, read and written as people write them; `format_*` undoes `parse_*` exactly.

Sizes are whole bytes, durations whole milliseconds (handed out as seconds), rates whole bytes per second.
Everything here raises ValueError with a sentence for the user.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from chunkyd.settings.values import shown

_BINARY: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50}
_DECIMAL: Final = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}
_SIZES: Final = {unit.lower(): factor for unit, factor in {"B": 1, **_BINARY, **_DECIMAL}.items()}
_MILLISECONDS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[dhms]))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])", re.ASCII)
_LARGEST_SIZE = 2**63 - 1
_LONGEST = 36_500 * _MILLISECONDS["d"]


def parse_size(text: str) -> int:
    """Bytes: `512KiB`, `8MiB`, `10GB`, `1.5TiB`; a bare number is bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{shown(text)} is not a size; write it like 512KiB, 8MiB or 10GB")
    number, unit = match.groups()
    factor = _size_factor(unit)
    if factor is None:
        raise ValueError(f"{shown(text)} is not a size{_unit_hint(number, unit)}")
    size = Decimal(number) * factor
    if size != int(size):
        raise ValueError(f"{shown(text)} is not a whole number of bytes")
    if size > _LARGEST_SIZE:
        raise ValueError(f"{shown(text)} is more than any file system holds")
    return int(size)


def _size_factor(unit: str) -> int | None:
    """Letters may be large or small throughout; mixed otherwise they mean bits (`Mb`), which nobody counts files in."""
    for units in ({"": 1, "B": 1}, _BINARY, _DECIMAL):
        if unit in units:
            return units[unit]
    return _SIZES.get(unit.lower()) if unit.islower() or unit.isupper() else None


def _unit_hint(number: str, unit: str) -> str:
    """What was probably meant by a unit that is none."""
    if len(unit) == 1 and unit.lower() in "kmgtp":
        letter = unit.upper()
        return f": {number}{letter}iB (powers of 1024) or {number}{'k' if letter == 'K' else letter}B (of 1000)?"
    if "bit" in unit.lower() or unit.endswith(("b", "bps")):
        return ": write bytes, not bits, like 512KiB, 8MiB or 10GB"
    return f": there is no unit {unit!r}; write it like 512KiB, 8MiB or 10GB"


def format_size(size: int) -> str:
    """The shortest exact way to write so many bytes."""
    exact = ((unit, size // factor) for unit, factor in {"B": 1, **_BINARY, **_DECIMAL}.items() if size % factor == 0)
    unit, number = min(exact, key=lambda written: written[1]) if size else ("B", 0)
    return f"{number}{unit}"


def parse_duration(text: str) -> float:
    """Seconds: `300ms`, `5s`, `2m`, `1h`, `5d`, `1h30m`; a bare number is refused, 0 excepted."""
    written = text.strip()
    if written == "0":
        return 0.0
    if not _DURATION.fullmatch(written):
        raise ValueError(f"{shown(text)} is not a duration{_duration_hint(written)}")
    parts = (Decimal(number) * _MILLISECONDS[unit] for number, unit in _DURATION_PART.findall(written))
    milliseconds = sum(parts, Decimal(0))
    if milliseconds != int(milliseconds):
        raise ValueError(f"{shown(text)} is finer than a millisecond")
    if milliseconds > _LONGEST:
        raise ValueError(f"{shown(text)} is longer than a hundred years")
    return int(milliseconds) / 1000


def _duration_hint(written: str) -> str:
    """What was probably meant by a duration that is none."""
    if re.fullmatch(r"\d+(\.\d+)?", written, re.ASCII):
        return f": which unit? Write {written}s, {written}m or {written}h"
    if re.fullmatch(r"\d+(:\d+)+", written, re.ASCII):
        return ": hours and minutes are written like 1h30m, minutes and seconds like 1m30s"
    return "; write it like 300ms, 5s, 2m, 1h, 5d or 1h30m"


def format_duration(seconds: float) -> str:
    """The shortest exact way to write so many seconds, to the millisecond."""
    milliseconds = round(seconds * 1000)
    for unit, factor in _MILLISECONDS.items():
        if milliseconds and milliseconds % factor == 0:
            return f"{milliseconds // factor}{unit}"
    return "0"


def parse_rate(text: str) -> int | None:
    """Bytes per second: `10MiB/s`; None for `unlimited`."""
    written = text.strip()
    if written == "unlimited":
        return None
    size, slash, per = written.partition("/")
    if not slash:
        raise ValueError(f"{shown(text)} is not a rate: write it per second, like 10MiB/s, or unlimited")
    if per.strip() != "s":
        raise ValueError(f"{shown(text)} is not a rate: only rates per second, like 10MiB/s, are understood")
    rate = parse_size(size)
    if rate == 0:
        raise ValueError("a rate of 0 never ends: write pause in a timetable, or unlimited")
    return rate


def format_rate(rate: int | None) -> str:
    """The shortest exact way to write so many bytes per second."""
    return "unlimited" if rate is None else f"{format_size(rate)}/s"
