"""The programs, the network between them, and what hits both."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from chunkyd.control.client import ControlClient
from tests.chaos.plan import KIB, Blow, Round
from tests.chaos.stored import Stored
from tests.e2e.programs import Daemon, Server
from tests.upload.faultproxy import FaultProxy, Seen
from tests.upload.netfaults import Fault

CHUNK = 512 * KIB
PARALLEL = 3
WORKERS = 3
_END_SECONDS = 20.0  # for SIGTERM: a loaded machine is no fault of the program
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Broken(AssertionError):
    """The promise was not kept."""


class World:
    """A server, a proxy and a daemon over the source's folders, and how often each was hit."""

    def __init__(self, folder: Path, *, keep_old: bool, bandwidth: str) -> None:
        self.folder = folder
        self.server = Server(folder, existing="keep" if keep_old else "replace")
        self.proxy = FaultProxy(self.server.port)
        self.daemon = Daemon(
            folder,
            self.proxy.url,
            [
                {"path": str(folder / "outbox")},
                {"path": str(folder / "second"), "priority": 5},
                {"path": str(folder / "drop"), "after_upload": "delete"},
            ],
            uploads={
                "workers": WORKERS,
                "bandwidth": bandwidth,
                "parallel_chunks": PARALLEL,
                "chunk_size": f"{CHUNK // KIB}KiB",
                "retry": {"base": "50ms", "max": "1s"},
            },
        )
        self.stored = Stored(self.server)
        self.hits: Counter[str] = Counter()
        self.memory: Counter[str] = Counter()  # the most, in bytes
        self._trouble: list[str] = []
        self._ended = threading.Event()

    def __enter__(self) -> World:
        self.proxy.__enter__()
        self.server.start()
        self.daemon.start()
        threading.Thread(target=self._weigh, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for program in (self.daemon, self.server):
            with contextlib.suppress(ProcessLookupError, AssertionError):
                program.go_on()
            program.kill()
        self.proxy.__exit__(None, None, None)

    def control(self) -> ControlClient:
        """The daemon's ear."""
        return ControlClient(str(self.daemon.socket))

    def programs(self) -> dict[str, Server | Daemon]:
        """By name."""
        return {"daemon": self.daemon, "server": self.server}

    # Trouble

    def rage(self, now: Round, acts: Callable[[], None]) -> None:
        """The blows and faults of one round fall while `acts` is done; at its end both programs run again."""
        begun, first = time.monotonic(), len(self.proxy.requests)
        self.proxy.plan = lambda seen: self._meet(now, seen, seen.number - first)
        self.proxy.welcome = now.welcome
        threads = [
            threading.Thread(target=self._beat, args=(name, program, now.blows[name], begun))
            for name, program in self.programs().items()
        ]
        for thread in threads:
            thread.start()
        try:
            acts()
        finally:
            for thread in threads:
                thread.join()
        self.quiet()
        if self._trouble:
            raise Broken("\n".join(self._trouble))

    def quiet(self) -> None:
        """The network is mended: what hung is cut, and nothing more happens to it."""
        self.proxy.plan = lambda seen: None
        self.proxy.welcome = lambda number: None
        self.proxy.cut_all()

    def _meet(self, now: Round, seen: Seen, number: int) -> Fault | None:
        if delay := now.delay(number):
            self._ended.wait(delay)
        fault = now.fault(number)
        self.hits["fault"] += fault is not None
        return fault

    def _beat(self, name: str, program: Server | Daemon, blows: tuple[Blow, ...], begun: float) -> None:
        for blow in blows:
            if self._ended.wait(max(0.0, begun + blow.at - time.monotonic())):
                return
            try:
                self._hit(name, program, blow)
            except Exception as error:
                self._trouble.append(f"{name}: {error!r:.4000}")
                return

    def _hit(self, name: str, program: Server | Daemon, blow: Blow) -> None:
        if not program.running():
            assert program.process is not None
            raise Broken(f"ended by itself, with {program.process.returncode}\n{program.text()[-3000:]}")
        self.hits[blow.kind] += 1
        if blow.kind == "stop":
            os.kill(program.pid, signal.SIGSTOP)
            self._ended.wait(blow.seconds)
            program.go_on()
            return
        if blow.kind == "term":
            served = program.answers()
            code = program.stop(_END_SECONDS)
            if code and (served or code != -signal.SIGTERM):  # not yet listening to it, it dies of it
                raise Broken(f"SIGTERM ended it with {code}\n{program.text()[-3000:]}")
        else:
            program.kill()
        said = self.stored.said() if name == "server" else []
        self._ended.wait(blow.seconds)
        program.begin()
        if name == "server":
            self.stored.check_soon(said)

    # Watching

    def _weigh(self) -> None:
        while not self._ended.wait(0.3):
            for name, program in self.programs().items():
                with contextlib.suppress(OSError, AssertionError, IndexError):
                    pages = int(Path(f"/proc/{program.pid}/statm").read_text().split()[1])
                    self.memory[name] = max(self.memory[name], pages * _PAGE)
