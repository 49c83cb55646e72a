"""RFC 3339 times with nanoseconds: a modification time arrives exactly as it was."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,18}))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII
)
_EPOCH = datetime(1970, 1, 1)  # without a zone: all here is UTC
_NANOSECONDS = 1_000_000_000
_FIRST_SECOND = -62_135_596_800  # 0001-01-01: what RFC 3339 and datetime can say
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59


def format_time(nanoseconds: int) -> str | None:
    """Nanoseconds since 1970 as RFC 3339 in UTC; None where the year is not 0001 to 9999."""
    seconds, fraction = divmod(nanoseconds, _NANOSECONDS)
    if not _FIRST_SECOND <= seconds <= _LAST_SECOND:
        return None
    moment = (_EPOCH + timedelta(seconds=seconds)).isoformat()
    tail = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{moment}{tail}Z"


def parse_time(text: str) -> int:
    """RFC 3339 as nanoseconds since 1970; finer digits are cut. ValueError where it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not an RFC 3339 time")
    year, month, day, hour, minute, second = map(int, match.group(1, 2, 3, 4, 5, 6))
    leap = second == 60  # RFC 3339 allows the leap second; POSIX time has none
    try:
        since = datetime(year, month, day, hour, minute, second - leap) - _EPOCH
    except ValueError as error:
        raise ValueError(f"{text[:40]!r} is not an RFC 3339 time") from error
    offset = 0
    if match.group(8):
        hours, minutes = int(match.group(9)), int(match.group(10))
        if hours > 23 or minutes > 59:
            raise ValueError(f"{text[:40]!r} is not an RFC 3339 time")
        offset = (hours * 3600 + minutes * 60) * (1 if match.group(8) == "+" else -1)
    fraction = int((match.group(7) or "0")[:9].ljust(9, "0"))
    return (since.days * 86_400 + since.seconds + leap - offset) * _NANOSECONDS + fraction
