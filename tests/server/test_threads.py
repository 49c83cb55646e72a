"""Work for threads: nobody waits for what will never be done."""

from __future__ import annotations

import asyncio
import threading

import pytest

from chunkyd.server.threads import WRITERS, Threads


def test_what_waits_when_its_pool_is_closed_ends() -> None:
    """What runs comes to its end; what was still waiting for a thread is cancelled, and so is who waits for it."""
    goes_on, begun = threading.Event(), threading.Semaphore(0)

    def work() -> str:
        begun.release()
        assert goes_on.wait(30)
        return "done"

    async def scenario() -> None:
        threads = Threads()
        tasks = [asyncio.create_task(threads.write(work)) for _ in range(2 * WRITERS)]
        await asyncio.sleep(0)
        for _ in range(WRITERS):
            assert await asyncio.to_thread(begun.acquire, timeout=10)
        asyncio.get_running_loop().call_later(0.1, goes_on.set)
        await asyncio.to_thread(threads.close)
        async with asyncio.timeout(10):
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert ended[:WRITERS] == ["done"] * WRITERS
        assert all(isinstance(each, asyncio.CancelledError) for each in ended[WRITERS:])

    asyncio.run(scenario())


def test_who_is_cancelled_waits_for_its_thread() -> None:
    """And hears then that it was cancelled, not what came of the work."""
    goes_on = threading.Event()

    async def scenario() -> None:
        threads = Threads()
        try:
            task = asyncio.create_task(threads.write(goes_on.wait, 30))
            await asyncio.sleep(0.05)
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0.05)
            assert not task.done()
            goes_on.set()
            with pytest.raises(asyncio.CancelledError):
                async with asyncio.timeout(10):
                    await task
        finally:
            goes_on.set()
            threads.close()

    asyncio.run(scenario())


def test_what_was_raised_is_raised() -> None:
    """By whoever waits, at once or later."""

    def work() -> None:
        raise OSError("broken")

    async def scenario() -> None:
        threads = Threads()
        try:
            begun = threads.begin_write(work)
            await asyncio.sleep(0.05)
            for _ in range(2):
                with pytest.raises(OSError, match="broken"):
                    await begun.ended()
        finally:
            threads.close()

    asyncio.run(scenario())
