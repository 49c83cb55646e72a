"""What of a body is written: the bytes the chunk has claimed, whatever pieces they come in; and in how much memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.protocol.digests import Checker
from chunkyd.protocol.ranges import RangeSet
from chunkyd.server import receive
from chunkyd.server.receive import ALL_BYTES, LEAST_BYTES, MOST_BYTES, Bodies, BodyCut, Receiver
from chunkyd.server.session import Claim, LiveSession
from chunkyd.server.threads import Threads
from chunkyd.storage.base import Partial
from chunkyd.storage.memory import MemoryStorage
from tests.server.bench import Came, Slow, WrappedPartial, until
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


def scene(scenario: Callable[[Threads, Bodies, Receiver], Awaitable[None]]) -> None:
    """A receiver, with a deadline for what is done with it."""

    async def played() -> None:
        threads, bodies = Threads(), Bodies()
        try:
            async with asyncio.timeout(30):
                await scenario(threads, bodies, Receiver(bodies, threads))
        finally:
            threads.close()

    asyncio.run(played())


def _received(own: RangeSet, most: int) -> tuple[RangeSet, bytes]:
    """Which bytes of a partial were written, and all it holds, after a body in pieces of `most` bytes."""
    storage = MemoryStorage()
    storage.create("one", BEGIN + len(BODY))
    partial = Noting(storage.open("one"))
    claim = Claim((BEGIN, BEGIN + len(BODY)), tuple(own))

    async def scenario(threads: Threads, bodies: Bodies, receiver: Receiver) -> None:
        await receiver.receive(LiveSession(record()), partial, claim, Checker({}), Came(BODY))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(receive, "MOST_BYTES", most)
        scene(scenario)
    return partial.written, partial.read(0, BEGIN + len(BODY))


@given(
    st.lists(st.tuples(st.integers(0, len(BODY) - 1), st.integers(1, 20)), max_size=8),
    st.integers(1, len(BODY) + 1),
)
def test_only_what_is_claimed_is_written(ranges: list[tuple[int, int]], most: int) -> None:
    """Every claimed byte of the body is written at its place, and no other, wherever pieces and claims end."""
    own = RangeSet()
    for start, length in ranges:
        own.add(BEGIN + start, BEGIN + min(start + length, len(BODY)))
    written, content = _received(own, most)
    assert list(written) == list(own)
    expected = bytearray(BEGIN + len(BODY))
    for start, stop in own:
        expected[start:stop] = BODY[start - BEGIN : stop - BEGIN]
    assert content == expected


class _Disk:
    """A sink whose writes wait until the disk goes on."""

    def __init__(self, goes_on: threading.Event) -> None:
        self._goes_on = goes_on
        self.began = 0
        self.written = bytearray()

    def wants(self) -> bool:
        return True

    def write(self, piece: memoryview) -> None:
        self.began += 1
        assert self._goes_on.wait(30)
        self.written += piece


def test_what_comes_faster_than_it_is_written_is_not_taken_in() -> None:
    """While a disk hangs a body takes in what its buffer holds, however much would come; then it gets through."""
    data = bytes(range(256)) * (5 * MOST_BYTES // 256)
    goes_on = threading.Event()

    async def scenario(threads: Threads, bodies: Bodies, receiver: Receiver) -> None:
        sink, body = _Disk(goes_on), Came(data)
        task = asyncio.create_task(receiver.pour(body, sink))
        await until(lambda: sink.began == 1 and body.taken >= 2 * MOST_BYTES)
        await asyncio.sleep(0.05)  # as far as it gets
        assert body.taken == bodies.held == 2 * MOST_BYTES
        goes_on.set()
        await task
        assert sink.written == data and bodies.held == 0

    try:
        scene(scenario)
    finally:
        goes_on.set()


def test_a_body_that_is_dropped_waits_for_its_write() -> None:
    """Its range is not free, nor is its memory, while a thread still writes what came of it."""
    goes_on = threading.Event()

    async def scenario(threads: Threads, bodies: Bodies, receiver: Receiver) -> None:
        sink, body = _Disk(goes_on), Slow(3 * MOST_BYTES)
        body.give(bytes(MOST_BYTES))
        task = asyncio.create_task(receiver.pour(body, sink))
        await until(lambda: sink.began == 1)
        bodies.stop()
        await asyncio.sleep(0.05)  # as far as it gets
        assert not task.done() and bodies.held
        goes_on.set()
        (refused,) = await asyncio.gather(task, return_exceptions=True)
        assert getattr(refused, "name", refused) == "shutting-down"
        assert len(sink.written) == MOST_BYTES and bodies.held == 0

    try:
        scene(scenario)
    finally:
        goes_on.set()


def test_a_body_that_is_cut_ends_as_one() -> None:
    """Wherever its end is missing: BodyCut, and none of its memory is kept."""
    goes_on = threading.Event()
    goes_on.set()

    async def scenario(threads: Threads, bodies: Bodies, receiver: Receiver) -> None:
        for came in (0, 1, MOST_BYTES - 1, MOST_BYTES, MOST_BYTES + 1):
            sink = _Disk(goes_on)
            with pytest.raises(BodyCut):
                await receiver.pour(Came(bytes(came), 2 * MOST_BYTES), sink)
            assert len(sink.written) <= came and bodies.held == 0

    scene(scenario)


def test_a_write_that_fails_ends_its_body() -> None:
    """What the disk said is raised, though more of the body has come meanwhile."""

    class Broken:
        def wants(self) -> bool:
            return True

        def write(self, piece: memoryview) -> None:
            raise OSError("broken")

    async def scenario(threads: Threads, bodies: Bodies, receiver: Receiver) -> None:
        for length in (MOST_BYTES, 5 * MOST_BYTES):
            with pytest.raises(OSError, match="broken"):
                await receiver.pour(Came(bytes(length)), Broken())
            assert bodies.held == 0
        slow = Slow(2 * MOST_BYTES)
        slow.give(bytes(MOST_BYTES + 1))
        with pytest.raises(OSError, match="broken"):  # though nothing more comes
            await receiver.pour(slow, Broken())

    scene(scenario)


def test_a_slow_body_is_dropped_once_it_stands_still_or_nobody_wants_it() -> None:
    """Not while bytes come, however long a half takes to fill."""

    class Unwanted:
        wanted = True

        def wants(self) -> bool:
            return self.wanted

        def write(self, piece: memoryview) -> None:
            pass

    async def dripping(body: Slow, task: asyncio.Task[None], drops: int) -> None:
        for _ in range(drops):
            await asyncio.sleep(0.05)
            body.give(b"x")
        assert not task.done()

    async def scenario() -> None:
        threads, bodies = Threads(), Bodies(stall_seconds=0.3)
        receiver = Receiver(bodies, threads)
        try:
            async with asyncio.timeout(20):
                for stands_still in (True, False):
                    sink, body = Unwanted(), Slow(1000)
                    task = asyncio.create_task(receiver.pour(body, sink))
                    await dripping(body, task, 15)
                    if not stands_still:
                        sink.wanted = False
                        while not task.done():
                            body.give(b"x")
                            await asyncio.sleep(0.05)
                    (dropped,) = await asyncio.gather(task, return_exceptions=True)
                    assert getattr(dropped, "name", dropped) == "chunk-length-mismatch"
        finally:
            threads.close()

    asyncio.run(scenario())


def test_many_bodies_share_what_memory_there_is() -> None:
    """However many they are, and however much the first were allowed: beyond it each has the least."""
    goes_on, many = threading.Event(), 1000
    goes_on.set()

    async def scenario(threads: Threads, bodies: Bodies, receiver: Receiver) -> None:
        slow = [Slow(16 * MOST_BYTES) for _ in range(many)]
        tasks = []
        for body in slow:
            tasks.append(asyncio.create_task(receiver.pour(body, _Disk(goes_on))))
            await asyncio.sleep(0)
        assert ALL_BYTES < bodies.held <= ALL_BYTES + 2 * MOST_BYTES + many * 2 * LEAST_BYTES
        for body in slow:
            body.give(None)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, BodyCut) for each in ended) and bodies.held == 0

    scene(scenario)
