"""What of a body is written: the bytes the chunk has claimed, whatever the pieces they come in."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from chunkyd.protocol.digests import Checker
from chunkyd.protocol.ranges import RangeSet
from chunkyd.server.exchange import Exchange
from chunkyd.server.receive import GATHER_ALL, GATHER_LEAST, GATHER_MOST, Bodies, BodyCut, Receiver
from chunkyd.server.session import Claim, LiveSession
from chunkyd.server.threads import Threads
from chunkyd.storage.base import Partial
from chunkyd.storage.memory import MemoryStorage
from tests.server.bench import WrappedPartial, pieces
from tests.server.test_session import record

BEGIN = 5  # of the chunk in its file
BODY = bytes(range(1, 61))


class Noting(WrappedPartial):
    """An open partial that notes where it was written to."""

    def __init__(self, inner: Partial) -> None:
        super().__init__(inner)
        self.written = RangeSet()

    def write(self, offset: int, *pieces: bytes | memoryview) -> None:
        self.written.add(offset, offset + sum(map(len, pieces)))
        super().write(offset, *pieces)


def _received(own: RangeSet, cuts: Sequence[int]) -> tuple[RangeSet, bytes]:
    """Which bytes of a partial were written, and all it holds, after a body in pieces."""
    storage = MemoryStorage()
    storage.create("one", BEGIN + len(BODY))
    partial = Noting(storage.open("one"))
    borders = [0, *sorted(cuts), len(BODY)]
    parts = [BODY[start:stop] for start, stop in itertools.pairwise(borders)]
    claim = Claim((BEGIN, BEGIN + len(BODY)), tuple(own))

    async def scenario() -> None:
        threads = Threads()
        try:
            receiver = Receiver(Bodies(), threads)
            await receiver.receive(LiveSession(record()), partial, claim, Checker({}), pieces(*parts))
        finally:
            threads.close()

    asyncio.run(scenario())
    return partial.written, partial.read(0, BEGIN + len(BODY))


@given(
    st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.integers(1, 20)), max_size=8),
    st.lists(st.integers(0, len(BODY)), max_size=12),
)
def test_only_what_is_claimed_is_written(ranges: list[tuple[int, int]], cuts: list[int]) -> None:
    """Every claimed byte of the body is written at its place, and no other, wherever pieces and claims end."""
    own = RangeSet()
    for start, length in ranges:
        own.add(BEGIN + start, BEGIN + min(start + length, len(BODY)))
    written, content = _received(own, cuts)
    assert list(written) == list(own)
    expected = bytearray(BEGIN + len(BODY))
    for start, stop in own:
        expected[start:stop] = BODY[start - BEGIN : stop - BEGIN]
    assert content == expected


class _Piece(bytes):
    """One that counts how many there are."""

    alive = 0

    def __new__(cls, value: bytes) -> _Piece:
        cls.alive += 1
        return super().__new__(cls, value)

    def __del__(self) -> None:
        type(self).alive -= 1


class _Dropping:
    """A sink whose every piece is enough, and written."""

    def __init__(self) -> None:
        self.held: list[bytes] = []

    def take(self, piece: bytes) -> None:
        self.held.append(piece)

    def write(self) -> None:
        self.held.clear()


def test_what_is_written_is_held_nowhere() -> None:
    """While a body waits for its next piece, the last one is free."""

    async def scenario() -> None:
        threads, stalled, over = Threads(), asyncio.Event(), asyncio.Event()
        left = 3

        async def receive() -> Message:
            nonlocal left
            if not left:
                stalled.set()
                await over.wait()
                return {"type": "http.disconnect"}
            left -= 1
            return {"type": "http.request", "body": _Piece(bytes(GATHER_MOST)), "more_body": True}

        async def send(message: Message) -> None:
            raise AssertionError

        exchange = Exchange({"type": "http", "headers": []}, receive, send)
        task = asyncio.create_task(Receiver(Bodies(), threads).pour(exchange.pieces(), _Dropping()))
        try:
            async with asyncio.timeout(30):
                await stalled.wait()
                assert _Piece.alive == 0
                over.set()
                with pytest.raises(BodyCut):
                    await task
        finally:
            threads.close()

    asyncio.run(scenario())


class _Slow:
    """A sink whose writes wait until the disk goes on."""

    def __init__(self, goes_on: threading.Event) -> None:
        self._goes_on = goes_on
        self.held = 0
        self.written = 0

    def take(self, piece: bytes) -> None:
        self.held += len(piece)

    def write(self) -> None:
        assert self._goes_on.wait(30)
        self.written += self.held
        self.held = 0


def test_what_comes_faster_than_it_is_written_is_not_taken_in() -> None:
    """While a disk hangs, however many send: no more is held than all may gather. Then every body gets through."""
    piece, number, many = bytes(GATHER_LEAST), 4, 400
    goes_on = threading.Event()
    sinks = [_Slow(goes_on) for _ in range(many)]

    async def scenario() -> None:
        threads, bodies = Threads(), Bodies()
        receiver = Receiver(bodies, threads)
        try:
            tasks = []
            async with asyncio.timeout(30):
                for sink in sinks:
                    tasks.append(asyncio.create_task(receiver.pour(pieces(*[piece] * number), sink)))
                    for _ in range(2 * number):  # as far as it gets
                        await asyncio.sleep(0)
                held = sum(sink.held for sink in sinks)
                assert GATHER_ALL <= held <= GATHER_ALL + len(piece)
                goes_on.set()
                await asyncio.gather(*tasks)
            assert all(sink.written == number * len(piece) for sink in sinks)
            assert bodies.gathered == 0
        finally:
            goes_on.set()
            threads.close()

    asyncio.run(scenario())


def test_a_stop_waits_for_no_room() -> None:
    """While a disk hangs, bodies that wait for room are refused as soon as the server stops."""
    piece, goes_on = bytes(GATHER_MOST), threading.Event()

    async def scenario() -> None:
        threads, bodies = Threads(), Bodies()
        receiver = Receiver(bodies, threads)

        async def endless() -> AsyncIterator[bytes]:
            yield piece
            await asyncio.Event().wait()

        def begin(number: int) -> list[asyncio.Task[None]]:
            return [asyncio.create_task(receiver.pour(endless(), _Slow(goes_on))) for _ in range(number)]

        try:
            hanging = begin(GATHER_ALL // len(piece))
            while bodies.gathered < GATHER_ALL:
                await asyncio.sleep(0)
            waiting = begin(3)
            await asyncio.sleep(0)
            bodies.stop()
            async with asyncio.timeout(10):
                refused = await asyncio.gather(*waiting, return_exceptions=True)
            assert [getattr(each, "name", each) for each in refused] == ["shutting-down"] * 3
            assert bodies.gathered == GATHER_ALL and not any(task.done() for task in hanging)
            goes_on.set()
            async with asyncio.timeout(10):
                await asyncio.gather(*hanging, return_exceptions=True)
            assert bodies.gathered == 0
        finally:
            goes_on.set()
            threads.close()

    asyncio.run(scenario())


class _Holding:
    """A sink that only counts what it holds."""

    def __init__(self) -> None:
        self.held = 0

    def take(self, piece: bytes) -> None:
        self.held += len(piece)

    def write(self) -> None:
        self.held = 0


def test_bodies_that_stall_hold_no_more_together_than_all_may() -> None:
    """However many they are, and however much each was allowed when it began."""
    piece, most, many = bytes(64 << 10), 15, 200
    sinks = [_Holding() for _ in range(many)]

    async def scenario() -> None:
        threads, bodies = Threads(), Bodies()
        receiver, over = Receiver(bodies, threads), asyncio.Event()
        stalled = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal stalled
            for _ in range(most):
                yield piece
            stalled += 1
            await over.wait()

        try:
            tasks = []
            async with asyncio.timeout(30):
                for number, sink in enumerate(sinks):  # the first ones were allowed the most
                    tasks.append(asyncio.create_task(receiver.pour(body(), sink)))
                    while stalled <= number:
                        await asyncio.sleep(0)
            held = sum(sink.held for sink in sinks)
            assert held == bodies.gathered
            assert 0 < held <= GATHER_ALL
            over.set()
            await asyncio.gather(*tasks)
            assert bodies.gathered == sum(sink.held for sink in sinks) == 0
        finally:
            threads.close()

    asyncio.run(scenario())
