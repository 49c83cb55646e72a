"""Threads that begin, or say why not: Python's own error is a RuntimeError, which nobody expects of the machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from chunkyd.errors import EnvironmentFailure

_NONE_LEFT = "can't start new thread"  # Python has no exception of its own for it


def begin(work: Callable[[], object], name: str) -> threading.Thread:
    """A daemon thread that runs. Raises EnvironmentFailure where the system allows no more."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    start(thread)
    return thread


def start(thread: threading.Thread) -> None:
    """Start this thread. Raises EnvironmentFailure where the system allows no more."""
    with none_left_is_told():
        thread.start()


def begun_pool(count: int, name: str, most: int | None = None) -> ThreadPoolExecutor:
    """A pool of which so many threads run already; with `most`, more begin when they are wanted.

    A pool that cannot begin a thread when it is wanted refuses the work, and does it later all the same.
    Raises EnvironmentFailure.
    """
    pool = ThreadPoolExecutor(most or count, name)
    together = threading.Barrier(count)
    try:
        with none_left_is_told():
            waiting = [pool.submit(together.wait) for _ in range(count)]
    except EnvironmentFailure:
        together.abort()
        raise
    for each in waiting:
        each.result()
    return pool


@contextlib.contextmanager
def none_left_is_told() -> Iterator[None]:
    """Around what begins threads: EnvironmentFailure where the system allows no more."""
    try:
        yield
    except RuntimeError as error:
        if str(error) != _NONE_LEFT:
            raise
        raise EnvironmentFailure(
            f"No thread can be started: {error}", mend="Allow more: TasksMax=, ulimit -u"
        ) from error
