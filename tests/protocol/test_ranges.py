"""RangeSet against a set of integers, and ranges on the wire."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chunkyd.protocol.ranges import Range, RangeSet, from_wire, to_wire
from tests.protocol.shared import label, vectors

VECTORS = vectors("missing-ranges.json")
SIZE = 40
POSITIONS = st.integers(0, SIZE)


def inclusive(pairs: list[list[str]]) -> list[tuple[int, int]]:
    return [(int(first), int(last)) for first, last in pairs]


def runs(points: set[int]) -> list[Range]:
    """The ranges of a set of integers, found the plain way."""
    found: list[Range] = []
    for point in sorted(points):
        if found and found[-1][1] == point:
            found[-1] = (found[-1][0], point + 1)
        else:
            found.append((point, point + 1))
    return found


class RangesAgainstIntegers(RuleBasedStateMachine):
    """Whatever is added and removed, every question has the answer a set of integers gives."""

    kind = RangeSet

    @initialize(ranges=st.lists(st.tuples(POSITIONS, POSITIONS), max_size=4))
    def begin(self, ranges: list[Range]) -> None:
        self.ranges = self.kind(ranges)
        self.points = {point for start, stop in ranges for point in range(start, stop)}

    @rule(start=POSITIONS, stop=POSITIONS)
    def add(self, start: int, stop: int) -> None:
        before = len(self.ranges)
        joins = self.ranges.joins(start, stop)
        self.ranges.add(start, stop)
        self.points |= set(range(start, stop))
        if start < stop:
            assert (len(self.ranges) <= before) == joins

    @rule(start=POSITIONS, stop=POSITIONS)
    def remove(self, start: int, stop: int) -> None:
        self.ranges.remove(start, stop)
        self.points -= set(range(start, stop))

    @rule(index=st.integers(-SIZE, SIZE))
    def remove_one(self, index: int) -> None:
        there = runs(self.points)
        if there:
            self.remove(*there[index % len(there)])

    @rule(start=POSITIONS, stop=POSITIONS)
    def ask(self, start: int, stop: int) -> None:
        asked = set(range(start, stop))
        assert self.ranges.covers(start, stop) == (asked <= self.points)
        assert self.ranges.overlaps(start, stop) == bool(asked & self.points)
        assert self.ranges.joins(start, start) == bool({start - 1, start} & self.points)
        assert self.ranges.missing(start, stop) == runs(asked - self.points)

    @rule(start=POSITIONS, stop=POSITIONS)
    def copy(self, start: int, stop: int) -> None:
        twin = self.ranges.copy()
        assert twin == self.ranges
        assert twin.total == self.ranges.total
        twin.add(start, stop)
        twin.remove(0, SIZE // 2)
        assert list(self.ranges) == runs(self.points)

    @invariant()
    def holds_the_same(self) -> None:
        expected = runs(self.points)
        assert list(self.ranges) == expected
        assert len(self.ranges) == len(expected)
        assert self.ranges.total == len(self.points)
        assert self.ranges.prefix == (expected[0][1] if expected and expected[0][0] == 0 else 0)
        assert list(reversed(self.ranges)) == expected[::-1]
        assert self.ranges == RangeSet(reversed(expected))
        assert (self.ranges == RangeSet([*expected, (SIZE, SIZE + 2)])) is False

    @invariant()
    def blocks_hold_whole_ranges(self) -> None:
        blocks, borders = self.ranges._blocks, self.ranges._borders
        assert all(len(block) % 2 == 0 for block in blocks)
        assert all(blocks) or len(blocks) == 1
        assert max(map(len, blocks)) <= self.kind.BLOCK + 2
        for border, before, after in zip(borders, blocks[:-1], blocks[1:], strict=True):
            assert before[-1] < border <= after[0]


class SmallBlocks(RangeSet):
    """Two ranges in a block at most: the twenty that there is room for are split, joined and dropped all the time."""

    BLOCK = 4
    __slots__ = ()


class SmallBlocksAgainstIntegers(RangesAgainstIntegers):
    """The same where the ranges are kept in many blocks."""

    kind = SmallBlocks

    @rule(step=st.integers(2, 5))
    def scatter(self, step: int) -> None:
        for point in range(0, SIZE, step):
            self.ranges.add(point, point + 1)
            self.points.add(point)


TestRangesAgainstIntegers = RangesAgainstIntegers.TestCase
TestRangesAgainstIntegers.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestSmallBlocksAgainstIntegers = SmallBlocksAgainstIntegers.TestCase
TestSmallBlocksAgainstIntegers.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)


@given(st.lists(st.tuples(POSITIONS, POSITIONS), max_size=8))
def test_ranges_come_back_from_the_wire(ranges: list[Range]) -> None:
    """What a server calls missing a client understands, to the byte."""
    missing = RangeSet(ranges).missing(0, SIZE)
    assert from_wire(to_wire(missing), SIZE) == missing


@given(st.lists(st.tuples(st.integers(-3, SIZE + 3), st.integers(-3, SIZE + 3)), max_size=4))
def test_only_proper_ranges_are_taken_from_the_wire(pairs: list[tuple[int, int]]) -> None:
    """Accepted ranges are ascending, apart, within the file, and travel back the same; others are a ValueError."""
    try:
        ranges = from_wire(pairs, SIZE)
    except ValueError:
        proper = RangeSet((first, last + 1) for first, last in pairs)
        inside = all(0 <= first <= last < SIZE for first, last in pairs)
        assert not inside or to_wire(proper) != pairs
        return
    assert to_wire(RangeSet(ranges)) == pairs


@pytest.mark.parametrize("case", VECTORS["good"], ids=label)
def test_missing_ranges_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    """After the stored chunks, in the order they came, exactly the vector's ranges are missing."""
    total = int(case["total"])
    stored = RangeSet((first, last + 1) for first, last in inclusive(case["stored"]))
    assert to_wire(stored.missing(0, total)) == inclusive(case["missing"])
    assert from_wire(inclusive(case["missing"]), total) == stored.missing(0, total)


@pytest.mark.parametrize("case", VECTORS["bad"], ids=lambda case: label(case["why"]))
def test_improper_missing_ranges_are_a_value_error(case: dict[str, Any]) -> None:
    """Missing ranges that no server can mean are refused."""
    with pytest.raises(ValueError):
        from_wire(inclusive(case["missing"]), int(case["total"]))


class Counted(int):
    """A position that counts how often it is compared."""

    comparisons = 0

    def __lt__(self, other: object) -> bool:
        Counted.comparisons += 1
        return int(self) < other  # type: ignore[operator]

    def __gt__(self, other: object) -> bool:
        Counted.comparisons += 1
        return int(self) > other  # type: ignore[operator]


def comparisons_of(count: int) -> int:
    """How often positions are compared while `count` separate ranges are stored, asked for and joined."""
    Counted.comparisons = 0
    ranges = RangeSet()
    for index in range(count):
        ranges.add(Counted(4 * (index * 7919 % count)), Counted(4 * (index * 7919 % count) + 2))
    assert len(ranges) == count
    for index in range(count):
        assert ranges.covers(Counted(4 * index), Counted(4 * index + 2))
        assert not ranges.joins(Counted(4 * index + 3), Counted(4 * index + 3))
    ranges.add(Counted(0), Counted(4 * count))
    assert len(ranges) == 1
    return Counted.comparisons


def test_ten_times_the_ranges_are_not_a_hundred_times_the_work() -> None:
    """From 3,000 to 30,000 separate ranges the comparisons grow as n log n does, not as the square."""
    assert comparisons_of(30_000) < 14 * comparisons_of(3_000)


def test_as_many_ranges_as_a_session_may_have_fit_the_wire() -> None:
    """100,000 separate ranges, stored in any order, come back from the wire as they are missing."""
    count = 100_000
    stored = RangeSet((2 * (index * 7919 % count), 2 * (index * 7919 % count) + 1) for index in range(count))
    assert (len(stored), stored.total, stored.prefix) == (count, count, 1)
    assert max(map(len, stored._blocks)) <= RangeSet.BLOCK  # or each insertion moves what follows in the whole set
    missing = stored.missing(0, 2 * count)
    assert len(missing) == count
    assert from_wire(to_wire(missing), 2 * count) == missing
    stored.remove(1, 2 * count - 1)
    assert list(stored) == [(0, 1)]
