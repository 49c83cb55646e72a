"""The timetable of bandwidth: what rate holds at a local time of the week.

`10MiB/s` or `unlimited` hold always. `08:00,2MiB/s 18:00,unlimited sun-00:00,pause` switches: an entry
without a weekday counts every day, one with a weekday wins over it at the same minute, and before the first
entry of the week the last one holds, because the week wraps.
"""

from __future__ import annotations

import enum
import re
from bisect import bisect_right
from datetime import datetime
from typing import Final

import msgspec

from chunkyd.settings.units import format_rate, parse_rate
from chunkyd.settings.values import shown

_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES_A_DAY: Final = 24 * 60
_ENTRY = re.compile(r"(?:([A-Za-z]+)-)?(\d{1,2}):(\d{2}),(.+)", re.ASCII)


class Pause(enum.Enum):
    """Nothing is sent at this time."""

    PAUSE = "pause"


PAUSE: Final = Pause.PAUSE


class Slot(msgspec.Struct, frozen=True):
    """From this minute of the week (Monday 00:00 is 0) this rate holds: bytes/s, None for unlimited, or PAUSE."""

    minute: int
    rate: int | Pause | None


class Timetable(msgspec.Struct, frozen=True):
    """Slots in the order of the week; at least one. Without arguments: always unlimited."""

    slots: tuple[Slot, ...] = (Slot(0, None),)

    def at(self, local: datetime) -> int | Pause | None:
        """What holds at this local time: bytes/s, None for unlimited, or PAUSE."""
        minute = (local.weekday() * 24 + local.hour) * 60 + local.minute
        before = bisect_right(self.slots, minute, key=lambda slot: slot.minute)
        return self.slots[before - 1].rate


def parse_timetable(text: str) -> Timetable:
    """A rate that holds always, or entries `[WEEKDAY-]HH:MM,RATE`; ValueError with a sentence for the user."""
    entries = text.split()
    if len(entries) <= 1 and "," not in text:
        return Timetable((Slot(0, _parse_rate(text.strip())),))
    every_day: dict[int, int | Pause | None] = {}
    one_day: dict[int, int | Pause | None] = {}
    for entry in entries:
        weekday, minute, rate = _parse_entry(entry)
        slots, first = (every_day, minute) if weekday is None else (one_day, weekday * _MINUTES_A_DAY + minute)
        if first in slots:
            raise ValueError(f"{shown(entry)}: there is an entry for that time already")
        slots[first] = rate
    week = {day * _MINUTES_A_DAY + minute: rate for day in range(7) for minute, rate in every_day.items()} | one_day
    return Timetable(tuple(Slot(minute, week[minute]) for minute in sorted(week)))


def _parse_entry(entry: str) -> tuple[int | None, int, int | Pause | None]:
    """Weekday (None: every day), minute of the day, rate."""
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError(f"{shown(entry)} is not a timetable's entry; write it like 08:00,2MiB/s or sun-00:00,pause")
    day, hour, minute, rate = match.groups()
    if int(hour) > 23 or int(minute) > 59:
        raise ValueError(f"{shown(entry)}: there is no time {hour}:{minute}")
    return _parse_weekday(entry, day), int(hour) * 60 + int(minute), _parse_rate(rate)


def _parse_weekday(entry: str, day: str | None) -> int | None:
    """Monday is 0; full names are fine."""
    if day is None:
        return None
    short = day.lower()[:3]
    full_names = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    if day.lower() not in (*_WEEKDAYS, *full_names):
        raise ValueError(f"{shown(entry)}: there is no weekday {shown(day)}; they are {', '.join(_WEEKDAYS)}")
    return _WEEKDAYS.index(short)


def _parse_rate(text: str) -> int | Pause | None:
    return PAUSE if text == "pause" else parse_rate(text)


def format_timetable(timetable: Timetable) -> str:
    """The text `parse_timetable` reads back into an equal timetable."""
    if len(timetable.slots) == 1 and timetable.slots[0].minute == 0:
        return _format_rate(timetable.slots[0].rate)
    return " ".join(_format_slots(timetable.slots))


def _format_slots(slots: tuple[Slot, ...]) -> list[str]:
    """A time that has the same rate on all seven days is written once, without a weekday."""
    by_time: dict[int, list[Slot]] = {}
    for slot in slots:
        by_time.setdefault(slot.minute % _MINUTES_A_DAY, []).append(slot)
    entries = []
    for slot in slots:
        alike = by_time[slot.minute % _MINUTES_A_DAY]
        day, minute = divmod(slot.minute, _MINUTES_A_DAY)
        time = f"{minute // 60:02}:{minute % 60:02},{_format_rate(slot.rate)}"
        if len(alike) == len(_WEEKDAYS) and len({twin.rate for twin in alike}) == 1:
            entries += [time] if day == 0 else []
        else:
            entries.append(f"{_WEEKDAYS[day]}-{time}")
    return entries


def _format_rate(rate: int | Pause | None) -> str:
    return "pause" if isinstance(rate, Pause) else format_rate(rate)
