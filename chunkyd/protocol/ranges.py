"""Sets of byte ranges. Inside the code a range is half-open, `(start, stop)`; on the wire both ends are inclusive."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import eq
from typing import ClassVar, Self

Range = tuple[int, int]


class RangeSet:
    """Ascending, disjoint ranges that do not touch; `add`, `remove` and the questions find their place in O(log n).

    Kept as their bounds, ascending: a start, its stop, the next start. So a position's index tells by its parity
    whether it is within a range, in every block too, since a block holds whole ranges. There is one block while there
    are few; were there always, each bound put in between would move all that follow. A block is an array of machine
    integers, so a bound is below 2**63: a list of objects takes five times the memory, and the processor's cache does
    not hold those of a large set.
    """

    BLOCK: ClassVar = 512  # more bounds than that are split into two blocks

    __slots__ = ("_blocks", "_borders", "_bounds", "_total")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._blocks: list[array[int]] = [_block()]  # only a single one may be empty
        self._borders: list[int] = []  # above every bound of a block, and above none of the next one's
        self._bounds = 0
        self._total = 0
        for start, stop in ranges:
            self.add(start, stop)

    def __iter__(self) -> Iterator[Range]:
        bounds = chain.from_iterable(self._blocks)
        return zip(bounds, bounds, strict=True)

    def __reversed__(self) -> Iterator[Range]:
        bounds = chain.from_iterable(map(reversed, reversed(self._blocks)))
        return ((start, stop) for stop, start in zip(bounds, bounds, strict=True))

    def __len__(self) -> int:
        return self._bounds // 2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeSet) and self._bounds == other._bounds and all(map(eq, self, other))

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
        first = self._blocks[0]
        return first[1] if first and first[0] == 0 else 0

    def add(self, start: int, stop: int) -> None:
        """Put [start, stop) in; what is there already does no harm."""
        if start < stop:
            self._total += stop - start - self._replace(start, stop, held=True)

    def remove(self, start: int, stop: int) -> None:
        """Take [start, stop) out; what is not there does no harm."""
        if start < stop:
            self._total -= self._replace(start, stop, held=False)

    def _replace(self, start: int, stop: int, *, held: bool) -> int:
        """Make all of [start, stop) held, or none; how much of it was before."""
        number = bisect_right(self._borders, start)
        if number < len(self._borders) and self._borders[number] <= stop:
            self._join(number, bisect_right(self._borders, stop))
        block = self._blocks[number]
        first = bisect_left(block, start)
        if first == len(block) or stop < block[first]:  # no bound lies in it: all of it is held, or none
            before = stop - start if first % 2 else 0
            if first % 2 != held:
                block.insert(first, stop)  # the greater one first: where it is too great, nothing has changed
                block.insert(first, start)
                self._bounds += 2
        else:
            last = bisect_right(block, stop, first)
            before = _bytes(start, stop, first, block[first:last].tolist())
            bounds = ([start] if first % 2 != held else []) + ([stop] if last % 2 != held else [])
            block[first:last] = _block(bounds)
            self._bounds += len(bounds) - (last - first)
        if len(block) > self.BLOCK:
            self._split(number, block)
        elif not block and self._borders:
            self._drop(number)
        return before

    def _join(self, first: int, last: int) -> None:
        """Make these blocks one."""
        self._blocks[first : last + 1] = [_block(chain.from_iterable(self._blocks[first : last + 1]))]
        del self._borders[first:last]

    def _split(self, number: int, block: array[int]) -> None:
        """Make this block two."""
        middle = len(block) // 4 * 2
        self._blocks[number : number + 1] = [block[:middle], block[middle:]]
        self._borders.insert(number, block[middle])

    def _drop(self, number: int) -> None:
        """Leave out this block, which is empty and not the only one."""
        del self._blocks[number]
        del self._borders[max(0, number - 1)]

    def _place(self, start: int) -> tuple[int, array[int], int]:
        """Where a range would begin here: the number of the block, the block, how many of its bounds are not after."""
        number = bisect_right(self._borders, start)
        block = self._blocks[number]
        return number, block, bisect_right(block, start)

    def _begins_by(self, number: int, index: int, position: int) -> bool:
        """Whether a range begins at `position` or before, of those from this bound on."""
        block = self._blocks[number]
        if index == len(block):
            return number < len(self._borders) and self._blocks[number + 1][0] <= position
        return block[index] <= position

    def covers(self, start: int, stop: int) -> bool:
        """Whether every byte of [start, stop) is in the set; an empty range always is."""
        if start >= stop:
            return True
        _, block, index = self._place(start)
        return index % 2 == 1 and stop <= block[index]

    def overlaps(self, start: int, stop: int) -> bool:
        """Whether any byte of [start, stop) is in the set."""
        number, _, index = self._place(start)
        return start < stop and (index % 2 == 1 or self._begins_by(number, index, stop - 1))

    def joins(self, start: int, stop: int) -> bool:
        """Whether [start, stop) overlaps or touches a range of the set, so that adding it makes no new one."""
        number, block, index = self._place(start)
        touches = index > 0 and block[index - 1] == start
        return touches or index % 2 == 1 or self._begins_by(number, index, stop)

    def missing(self, start: int, stop: int) -> list[Range]:
        """The gaps of the set within [start, stop), ascending."""
        if start >= stop:
            return []
        number, _, index = self._place(start)
        last = bisect_right(self._borders, stop, number)
        final = bisect_left(self._blocks[last], stop)
        between = self._blocks[number : last + 1]
        between[-1] = between[-1][:final]
        between[0] = between[0][index:]
        bounds = chain([] if index % 2 else [start], *between, [] if final % 2 else [stop])
        return list(zip(bounds, bounds, strict=True))

    def copy(self) -> Self:
        """An independent set with the same ranges."""
        twin = type(self)()
        twin._blocks = [block[:] for block in self._blocks]
        twin._borders, twin._bounds, twin._total = self._borders.copy(), self._bounds, self._total
        return twin


def _block(bounds: Iterable[int] = ()) -> array[int]:
    return array("q", bounds)


def _bytes(start: int, stop: int, first: int, bounds: list[int]) -> int:
    """How much of [start, stop) is held, where these bounds lie in it and the first has this index."""
    if first % 2:
        bounds = [start, *bounds]
    if len(bounds) % 2:
        bounds = [*bounds, stop]
    return sum(bounds[1::2]) - sum(bounds[::2])


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
