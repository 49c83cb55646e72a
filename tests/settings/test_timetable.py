"""The bandwidth of each time of the week."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.settings import PAUSE, Pause, Timetable, format_timetable, parse_timetable
from chunkyd.settings.timetable import Slot

MONDAY = datetime(2026, 11, 23)
OFFICE = parse_timetable("08:00,2MiB/s 18:00,unlimited sun-00:00,pause")


def at(timetable: Timetable, day: int, hour: int, minute: int = 0) -> int | Pause | None:
    return timetable.at(MONDAY + timedelta(days=day, hours=hour, minutes=minute))


def test_entries_hold_until_the_next() -> None:
    """An entry without a weekday counts every day, and holds until the next one, over midnight too."""
    assert at(OFFICE, 0, 8) == 2 << 20
    assert at(OFFICE, 3, 17, 59) == 2 << 20
    assert at(OFFICE, 3, 18) is None
    assert at(OFFICE, 4, 7, 59) is None


def test_weekday_switches_until_the_next_entry() -> None:
    """Sunday begins with a pause, which ends at the next entry like any other."""
    assert at(OFFICE, 6, 0) is PAUSE
    assert at(OFFICE, 6, 7, 59) is PAUSE
    assert at(OFFICE, 6, 8) == 2 << 20


def test_week_wraps() -> None:
    """Before the first entry of the week the last one of the week holds."""
    weekend = parse_timetable("wed-12:00,1MiB/s sat-06:30,pause")
    assert at(weekend, 0, 0) is PAUSE
    assert at(weekend, 2, 11, 59) is PAUSE
    assert at(weekend, 2, 12) == 1 << 20
    assert at(weekend, 5, 6, 29) == 1 << 20


def test_weekday_wins_over_every_day() -> None:
    """At the same minute the entry that names the weekday counts, wherever it stands."""
    for text in ("08:00,1MiB/s sat-08:00,pause", "Saturday-08:00,pause 08:00,1MiB/s"):
        timetable = parse_timetable(text)
        assert at(timetable, 5, 8) is PAUSE
        assert at(timetable, 4, 8) == 1 << 20


@pytest.mark.parametrize(("text", "rate"), [("unlimited", None), ("10MiB/s", 10 << 20), ("pause", PAUSE)])
def test_one_rate_holds_always(text: str, rate: int | Pause | None) -> None:
    """A rate alone is a timetable too."""
    assert {at(parse_timetable(text), day, hour) for day in range(7) for hour in range(24)} == {rate}


def test_default_is_unlimited() -> None:
    """A timetable nobody wrote limits nothing."""
    assert Timetable() == parse_timetable("unlimited")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "per second"), ("08:00", "per second"), ("10MiB", "per second"), ("08:00 2MiB/s", "'08:00'"),
        ("24:00,1MiB/s", "no time 24:00"), ("08:60,1MiB/s", "no time 08:60"), ("8,1MiB/s", "'8,1MiB/s'"),
        ("son-08:00,pause", "no weekday 'son'"), ("mo-08:00,pause", "no weekday"), ("08:00,off", "per second"),
        ("08:00,1MiB/s 08:00,2MiB/s", "already"), ("mon-8:00,pause monday-08:00,pause", "already"),
        ("08:00,0/s", "pause"), ("10MiB/s 20MiB/s", "timetable's entry"),
    ],
)  # fmt: skip
def test_what_is_no_timetable_is_refused(text: str, said: str) -> None:
    """A wrong entry is named, and what is wrong with it."""
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_timetable(text)


@given(
    st.dictionaries(
        st.integers(0, 7 * 1440 - 1) | st.integers(0, 6).map(lambda day: day * 1440 + 480),
        st.none() | st.just(PAUSE) | st.integers(1, 10**9),
        min_size=1,
        max_size=30,
    )
)
def test_timetable_survives_writing(week: dict[int, int | Pause | None]) -> None:
    """Every timetable written holds the same at every time of the week when read back."""
    timetable = Timetable(tuple(Slot(minute, week[minute]) for minute in sorted(week)))
    again = parse_timetable(format_timetable(timetable))
    moments = [MONDAY + timedelta(minutes=minute + step) for minute in [0, *week] for step in (-1, 0, 1)]
    assert [again.at(moment) for moment in moments] == [timetable.at(moment) for moment in moments]


def test_every_day_is_written_once() -> None:
    """What people wrote for every day comes back like that, not seven times."""
    text = "08:00,2MiB/s 18:00,unlimited sun-00:00,pause"
    assert format_timetable(OFFICE) == text
    assert parse_timetable(text) == OFFICE
