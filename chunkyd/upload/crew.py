"""The threads that make an upload's requests: as many as are needed, begun when they are needed, none waited for long.

They are daemon threads: one that hangs in the resolver must not keep a program that was stopped from ending.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from chunkyd.errors import EnvironmentFailure
from chunkyd.threads import begin

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")
_JOIN_SECONDS = 0.3


class Broken(msgspec.Struct, frozen=True):
    """A task ended with an exception; whoever collects the outcomes raises it."""

    error: BaseException


class Crew(Generic[Task, Outcome]):
    """Performs tasks in threads; outcomes are collected by one caller. `leave` is called as each thread ends."""

    def __init__(self, perform: Callable[[Task], Outcome], join: Callable[[], None], leave: Callable[[], None]) -> None:
        self._perform = perform
        self._join = join
        self._leave = leave
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Outcome | Broken] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open = 0

    def submit(self, task: Task) -> None:
        """Have a task performed; called by the collecting thread only. EnvironmentFailure where no thread can begin."""
        self._open += 1
        if self._open > len(self._threads):
            self._one_more()
        self._tasks.put(task)

    def _one_more(self) -> None:
        self._join()
        try:  # fewer would not do: one task may wait for what another one does
            self._threads.append(begin(self._work, "chunky-sender"))
        except EnvironmentFailure:
            self._leave()
            raise

    def outcome(self, timeout: float) -> Outcome | None:
        """The next outcome, or None after `timeout` seconds; raises what a task raised."""
        try:
            found = self._outcomes.get(timeout=max(timeout, 0.0))
        except queue.Empty:
            return None
        self._open -= 1
        if isinstance(found, Broken):
            raise found.error
        return found

    def close(self) -> None:
        """Let the threads end; those that hang end when they come back."""
        for _ in self._threads:
            self._tasks.put(None)
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                try:
                    self._outcomes.put(self._perform(task))
                except BaseException as error:  # noqa: BLE001  # handed to the collecting thread, which raises it
                    self._outcomes.put(Broken(error))
        finally:
            self._leave()
