"""Two clients with one memory, as two processes that upload the same file: the pure machine, and what is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from chunkyd.errors import ChunkyError, Problem
from chunkyd.upload.machine import Initiate, Known, Machine, Phase, Request, Rules

TOTAL = 60
RULES = Rules(attempts=5, base=1.0, max_wait=10.0, parallel_chunks=2, chunk_size=9)


@dataclasses.dataclass
class SharedMemory:
    """The session of each version, and those that are to be ended."""

    sessions: dict[int, str] = dataclasses.field(default_factory=dict)
    endings: set[str] = dataclasses.field(default_factory=set)

    def remember(self, version: int, session_id: str) -> str:
        """The one that counts; another is to be ended."""
        counting = self.sessions.setdefault(version, session_id)
        if counting == session_id:
            self.endings.discard(session_id)
        else:
            self.endings.add(session_id)
        return counting

    def forget(self, version: int, session_id: str) -> None:
        """It is given up."""
        if self.sessions.get(version) == session_id:
            del self.sessions[version]
        self.endings.add(session_id)


class ModelClient:
    """One of them. A crash loses all but the memory."""

    def __init__(self, number: int, memory: SharedMemory, random: Callable[[], float]) -> None:
        self.number = number
        self.memory = memory
        self.life = 0
        self.version = 0
        self.machine: Machine | None = None
        self.sessions: dict[int, str] = {}
        self.completed: set[int] = set()  # versions
        self._random = random

    def begin(self, version: int) -> None:
        """Take the file up as it is now; sessions of older versions are given up first."""
        for old in [old for old in self.memory.sessions if old != version]:
            self.memory.forget(old, self.memory.sessions[old])
        session_id = self.memory.sessions.get(version)
        self.life += 1
        self.version = version
        self.sessions = {1: session_id} if session_id is not None else {}
        self.machine = Machine(TOTAL, RULES, self._random, resuming=session_id is not None)

    def leave(self) -> None:
        """Crash, or stop."""
        self.life += 1
        self.machine = None

    def requests(self, now: float) -> list[Request]:
        """What it wants to ask now."""
        assert self.machine is not None
        requests = self.machine.requests(now)
        for request in requests:
            if isinstance(request, Initiate) and request.session - 1 in self.sessions:
                lost = self.sessions[request.session - 1]
                self.memory.forget(self.version, lost)
                self.memory.endings.discard(lost)
        return requests

    def opened(self, request: Request, session_id: str) -> bool:
        """An initiate was answered; False where another session counts, and is to be asked about."""
        counting = self.memory.remember(self.version, session_id)
        self.sessions[request.session] = counting
        return counting == session_id

    def after(self, now: float) -> None:
        """What an answer has led to: done, or given up."""
        assert self.machine is not None
        if self.machine.phase is Phase.COMPLETE:
            self.completed.add(self.version)
            self._drop()
        elif self.machine.failure is not None:
            failure: ChunkyError = self.machine.failure
            if isinstance(failure, Problem):
                self._drop()
            self.leave()

    def _drop(self) -> None:
        if self.sessions:
            self.memory.forget(self.version, self.sessions[max(self.sessions)])
        self.machine = None


__all__ = ["TOTAL", "Known", "ModelClient", "SharedMemory"]
