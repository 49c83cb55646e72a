"""Sets of byte ranges. Inside the code a range is half-open, `(start, stop)`; on the wire both ends are inclusive."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]


class RangeSet:
    """Ascending, disjoint ranges that do not touch; `add` and the questions cost O(log n) besides a memory move."""

    __slots__ = ("_starts", "_stops", "_total")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._total = 0
        for start, stop in ranges:
            self.add(start, stop)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"RangeSet({list(self)!r})"

    @property
    def total(self) -> int:
        """How many bytes the set holds."""
        return self._total

    @property
    def prefix(self) -> int:
        """Where the range that begins at byte 0 stops; 0 where there is none."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    def _touching(self, start: int, stop: int) -> tuple[int, int]:
        """Indices [first, last) of the ranges that overlap or touch [start, stop)."""
        return bisect_left(self._stops, start), bisect_right(self._starts, stop)

    def add(self, start: int, stop: int) -> None:
        """Put [start, stop) in; what is there already does no harm."""
        if start >= stop:
            return
        first, last = self._touching(start, stop)
        absorbed = sum(self._stops[i] - self._starts[i] for i in range(first, last))
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
        self._total += stop - start - absorbed

    def remove(self, start: int, stop: int) -> None:
        """Take [start, stop) out; what is not there does no harm."""
        first = bisect_right(self._stops, start)
        last = bisect_left(self._starts, stop)
        if start >= stop or first >= last:
            return
        kept: list[Range] = []
        if self._starts[first] < start:
            kept.append((self._starts[first], start))
        if stop < self._stops[last - 1]:
            kept.append((stop, self._stops[last - 1]))
        before = sum(self._stops[i] - self._starts[i] for i in range(first, last))
        self._starts[first:last] = [a for a, _ in kept]
        self._stops[first:last] = [b for _, b in kept]
        self._total -= before - sum(b - a for a, b in kept)

    def covers(self, start: int, stop: int) -> bool:
        """Whether every byte of [start, stop) is in the set; an empty range always is."""
        if start >= stop:
            return True
        index = bisect_right(self._starts, start) - 1
        return index >= 0 and stop <= self._stops[index]

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether any byte of [start, stop) is in the set."""
        return start < stop and bisect_right(self._stops, start) < bisect_left(self._starts, stop)

    def joins(self, start: int, stop: int) -> bool:
        """Whether [start, stop) overlaps or touches a range of the set, so that adding it makes no new one."""
        first, last = self._touching(start, stop)
        return first < last

    def missing(self, start: int, stop: int) -> list[Range]:
        """The gaps of the set within [start, stop), ascending."""
        gaps: list[Range] = []
        for index in range(bisect_right(self._stops, start), bisect_left(self._starts, stop)):
            if start < self._starts[index]:
                gaps.append((start, self._starts[index]))
            start = self._stops[index]
        if start < stop:
            gaps.append((start, stop))
        return gaps

    def copy(self) -> RangeSet:
        """An independent set with the same ranges."""
        twin = RangeSet()
        twin._starts, twin._stops, twin._total = self._starts.copy(), self._stops.copy(), self._total
        return twin


def to_wire(ranges: Iterable[Range]) -> list[tuple[int, int]]:
    """Half-open ranges as `[first, last]` pairs, both ends inclusive."""
    return [(start, stop - 1) for start, stop in ranges]


def from_wire(pairs: Iterable[tuple[int, int]], total: int) -> list[Range]:
    """`[first, last]` pairs as half-open ranges.

    Raises ValueError where they are not ascending, disjoint, apart, and within `total` bytes: such an answer is
    not one this protocol promises.
    """
    ranges: list[Range] = []
    end = -1
    for first, last in pairs:
        if not (end < first <= last < total):
            raise ValueError(f"missing ranges are not ascending, apart and inside {total} bytes")
        ranges.append((first, last + 1))
        end = last + 1
    return ranges
