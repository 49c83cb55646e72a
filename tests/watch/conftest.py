"""A recording daemon for the watcher, and real folders to watch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from chunkyd.clock import SystemClock
from chunkyd.errors import StateError
from chunkyd.files import Fingerprint, fingerprint
from chunkyd.watch.shapes import RootStatus, Settled, WatchedRoot
from chunkyd.watch.watcher import Watcher

SETTLE = 0.2


def eventually(condition: Callable[[], object], timeout: float = 15.0) -> None:
    """Wait until the condition holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.01)


@pytest.fixture
def leases() -> Iterator[None]:
    """A process that may take leases, as the daemon is one: a broken lease does not end it."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


class Daemon:
    """Remembers what it was told, as the job table does: Knowledge and Sink in one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: list[tuple[str, object]] = []
        self.too_early: list[Settled] = []
        self.changes: list[Settled] = []
        self.asked = 0
        self.told = 0
        self.only_first = False
        self.broken = False
        self.bug = ""
        self._known: dict[tuple[str, bytes], dict[bytes, Fingerprint]] = {}

    def versions(self, folder: str, directories: Sequence[bytes]) -> Mapping[bytes, Mapping[bytes, Fingerprint]]:
        with self.lock:
            self.asked += 1
            self._refuse()
            asked = directories[:1] if self.only_first else directories
            return {directory: dict(self._known.get((folder, directory), {})) for directory in asked}

    def settled(self, changes: Sequence[Settled]) -> None:
        with self.lock:
            self._refuse()
            self.told += len(changes)
            for change in changes:
                directory, _, name = change.path.rpartition(b"/")
                known = self._known.setdefault((change.folder, directory), {})
                if known.get(name) == change.fingerprint:
                    continue
                known[name] = change.fingerprint
                self.changes.append(change)
                if time.time() < change.fingerprint.ctime_ns / 1e9 + SETTLE - 0.01:
                    self.too_early.append(change)

    def scanned(self, folder: str) -> None:
        self._note("scanned", folder)

    def left_behind(self, folder: str, path: bytes) -> None:
        self._note("left behind", path)

    def gone(self, folder: str, path: bytes) -> None:
        self._note("gone", path)

    def root_missing(self, folder: str) -> None:
        self._note("missing", folder)

    def root_back(self, folder: str) -> None:
        self._note("back", folder)

    def _note(self, what: str, of: object) -> None:
        with self.lock:
            self._refuse()
            if of == self.bug:
                raise ZeroDivisionError
            self.calls.append((what, of))

    def _refuse(self) -> None:
        if self.broken:
            raise StateError("the job table is locked", mend="Wait.")

    def paths(self) -> set[bytes]:
        with self.lock:
            return {change.path for change in self.changes}

    def count(self, path: bytes) -> int:
        with self.lock:
            return sum(change.path == path for change in self.changes)

    def heard(self, what: str, of: object = None) -> int:
        with self.lock:
            return sum(call[0] == what and (of is None or call[1] == of) for call in self.calls)


class House:
    """A folder, its watcher and the daemon that hears of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = os.fsencode(folder)
        self.daemon = Daemon()
        self.watcher: Watcher | None = None

    def root(self, **changes: object) -> WatchedRoot:
        settings = {"name": "box", "path": str(self.folder), "settle": SETTLE, "rescan": 0.0} | changes
        return WatchedRoot(**settings)  # type: ignore[arg-type]

    def watch(self, *, watch_limit: int | None = None, **changes: object) -> Watcher:
        self.watcher = Watcher([self.root(**changes)], self.daemon, self.daemon, SystemClock(), watch_limit=watch_limit)
        self.watcher.start()
        eventually(lambda: self.daemon.heard("scanned") or self.status().state == "missing")
        return self.watcher

    def status(self) -> RootStatus:
        assert self.watcher is not None
        return self.watcher.status()[0]

    def write(self, name: bytes, content: bytes = b"content") -> bytes:
        path = os.path.join(self.path, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def now(self, name: bytes) -> Fingerprint:
        return fingerprint(os.lstat(os.path.join(self.path, name)))

    def arrived(self, *names: bytes) -> None:
        """All of these were told, in the version that stands there."""
        eventually(lambda: set(names) <= self.daemon.paths())
        latest = {change.path: change.fingerprint for change in self.daemon.changes}
        for name in names:
            assert latest[name] == self.now(name)

    def stop(self) -> None:
        if self.watcher is not None:
            self.watcher.stop()


@pytest.fixture
def house() -> Iterator[House]:
    top = Path(tempfile.mkdtemp(prefix="chunkyd-watch-"))
    house = House(top / "box")
    house.folder.mkdir()
    yield house
    house.stop()
    shutil.rmtree(top, ignore_errors=True)


@pytest.fixture
def mount() -> Iterator[Callable[[Path], None]]:
    """Mounts a small tmpfs; skips where that is not allowed."""
    points: list[Path] = []

    def mounted(point: Path) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(point)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("mounting is not allowed here")
        points.append(point)

    yield mounted
    for point in points:
        subprocess.run(["umount", "-l", str(point)], capture_output=True, check=False)
