"""A stage whose server or daemon keeps what it must remember on a disk that loses power; and what must hold then.

The server keeps every version (`existing: keep`), so that nothing that was ever said to be complete may be missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

from chunkyd.control.client import ControlClient
from chunkyd.errors import ChunkyError
from chunkyd.upload.late import LATE_BYTES
from tests.e2e.programs import tree, wait_until
from tests.faults.stage import CHUNK, Stage
from tests.faults.strict_disk import StrictDisk

SURVIVALS = (0.0, 0.0, 0.2, 0.5, 0.8, 1.0)
_KEPT = re.compile(rb"\.~[0-9]+~\Z")
_MOMENT = 0.05


class PowerStage(Stage):
    """One of `server` and `daemon` is the victim: its folder is on the disk. Everything follows from the seed."""

    def __init__(self, folder: Path, disk: StrictDisk, victim: str, seed: int, after_upload: str = "keep") -> None:
        settings: dict[str, Any] = {"server": {"data_dir": disk.path / "data"}} if victim == "server" else {}
        state = {"state_dir": str(disk.path / "state")} if victim == "daemon" else {}
        uploads = {
            "chunk_size": f"{CHUNK >> 20}MiB",
            "parallel_chunks": 2,
            "retry": {"base": "50ms", "max": "400ms"},
        }
        super().__init__(folder, **settings, box={"after_upload": after_upload}, daemon={"uploads": uploads, **state})
        if state:
            self.daemon.state = disk.path / "state"
        self.disk = disk
        self.victim = victim
        self.keeps_source = after_upload == "keep"
        self.chance = random.Random(seed)
        self.contents: dict[str, bytes] = {}  # every version there ever was, by its hash
        self.newest: dict[bytes, str] = {}
        self.said: list[tuple[str, int, int]] = []

    def __exit__(self, *reason: object) -> None:
        for program in (self.daemon, self.server):
            if program.running():
                os.killpg(program.pid, signal.SIGKILL)
        self.disk.abort()
        super().__exit__(*reason)

    def work(self) -> None:
        """Files to send: a big one, small ones in new folders, a new version of an old one."""
        number = len(self.contents)
        least = self.chance.choice((2 * CHUNK, LATE_BYTES))  # the latter are read once, where they hold still
        self._version(f"big-{number}", least + self.chance.randrange(CHUNK))
        for each in range(self.chance.randrange(1, 6)):
            self._version(f"new-{number}/below/{each}", self.chance.randrange(60_000))
        for path in self.chance.sample(sorted(self.newest), min(2, len(self.newest))):
            self._version(os.fsdecode(path), self.chance.randrange(1, 3 * CHUNK))

    def _version(self, name: str, size: int) -> None:
        content = self.chance.randbytes(size)
        file_hash = hashlib.sha256(content).hexdigest()
        self.contents[file_hash] = content
        self.newest[os.fsencode(name)] = file_hash
        self.put(name, content)

    def lose_power(self, after: int) -> None:
        """After so many changes, or at rest; the victim starts by itself on what has survived."""
        program = self.server if self.victim == "server" else self.daemon
        self.disk.arm(after)
        wait_until("the power is gone, or all is done", lambda: self.disk.is_off() or self._idle(), 60, self._about)
        print("power gone at", self.disk.changes(), "" if self.disk.is_off() else "at rest")
        self.disk.off()
        time.sleep(_MOMENT)  # not to wait for anything: what is being answered now is a promise, too
        promised = self.done()
        os.killpg(program.pid, signal.SIGKILL)
        self.disk.cut(self.chance.choice(SURVIVALS))
        program.kill()
        self.kills += 1
        self.said += self.said_stored()[len(self.said) :]
        if self.victim == "server":
            self.check_survived(promised)
            self.start_server()
            self._still_stored(self.said)
        else:
            self.start_daemon()

    def _idle(self) -> bool:
        with contextlib.suppress(ChunkyError, OSError):
            return not self.jobs() and len(self.done()) >= len(self.contents)
        return False

    def done(self) -> set[tuple[bytes, str]]:
        """Path and hash of what the daemon has been told is complete."""
        question = "SELECT path, file_hash FROM jobs WHERE state IN ('finishing', 'done')"
        with contextlib.suppress(sqlite3.Error):
            where = f"file:{self.daemon.state}/jobs.sqlite3?mode=ro"
            if self.victim == "server":
                with contextlib.closing(sqlite3.connect(where, uri=True)) as rows:
                    return {(bytes(path), file_hash) for path, file_hash in rows.execute(question)}
        return set()

    def check_survived(self, promised: set[tuple[bytes, str]]) -> None:
        """Before the server has mended anything: nothing published is torn, and all that was complete is there."""
        there = self.published() if (self.server.files() / "outbox").exists() else {}
        hashes: dict[bytes, set[str]] = {}
        for path, (file_hash, _, _) in there.items():
            assert file_hash in self.contents, f"{path!r} is torn"
            hashes.setdefault(_KEPT.sub(b"", path), set()).add(file_hash)
        lost = [(path, each) for path, each in promised if each not in hashes.get(path, set())]
        assert not lost, f"was complete, and is not there: {lost}"
        for name in self.newest:
            assert os.path.exists(os.fsencode(self.box) + b"/" + name) or self.newest[name] in hashes.get(name, ()), (
                f"{name!r} is neither at the source nor at the server"
            )
        self._check_partials()

    def _check_partials(self) -> None:
        """Every byte that was said to be stored, and is not published yet, is the right one."""
        for session_id, _, file_hash, size, _ in self.sessions():
            partial = self.server.data / "partial" / session_id
            if partial.exists():
                ranges = [(first, stop) for said, first, stop in self.said if session_id.startswith(said)]
                bytes_there, contents = partial.read_bytes(), self._contents(file_hash, size)
                right = [all(bytes_there[a:b] == content[a:b] for a, b in ranges) for content in contents]
                assert any(right), (session_id, ranges)

    def _contents(self, file_hash: str, size: int) -> list[bytes]:
        """What a session's bytes may be of; where its hash comes last, any content of its size."""
        if file_hash in self.contents:
            return [self.contents[file_hash]]
        return [content for content in self.contents.values() if len(content) == size]

    def finish(self) -> None:
        """Power stays: all invariants hold."""
        self.disk.arm(None)
        wait_until("everything has arrived", self._arrived, 90, self._about)
        wait_until("no job is left", lambda: not self.jobs(), 60, self._about)
        self.server_at_rest()
        there = self.published()
        assert {path: there[path][0] for path in self.newest} == self.newest
        versions = [(_KEPT.sub(b"", path), found[0]) for path, found in there.items()]
        assert len(versions) == len(set(versions)), "a version was kept twice"
        assert {file_hash for _, file_hash in versions} <= set(self.contents)
        assert self.leftovers() == []
        assert {job.state for job in ControlClient(str(self.daemon.socket)).history().jobs} <= {"done", "superseded"}
        if self.keeps_source:
            assert {path: found for path, found in there.items() if path in self.newest} == tree(self.box)
        else:
            wait_until("the source is empty", lambda: not tree(self.box), 30, self._about)
        self.check_little_was_sent_twice()
        assert "damaged" not in self.server.text() + self.daemon.text()
        assert "Traceback" not in self.server.text() + self.daemon.text()
        verdict = self.server.command("verify")
        assert "0 bad" in verdict or "good" in verdict, verdict

    def server_at_rest(self, seconds: float = 60) -> None:
        """A session may be left whose answer the power took, at either end, and whose file has changed since: one for a
        cut at most, and none that has a chunk, for that came after its record was durable at both.
        """
        used = {session for session, _, _ in self.said_stored()}
        wait_until("no session in use is left", lambda: not self._left(used), seconds, self._about)
        left = self.sessions()
        assert len(left) <= self.kills
        for session_id, *_ in left:
            self.server.command("sessions", "expire", session_id)
        super().server_at_rest(seconds)

    def _left(self, used: set[str]) -> list[str]:
        found = self.sessions()
        return [session_id for session_id, *_, state in found if session_id[:8] in used or state != "receiving"]

    def _arrived(self) -> bool:
        there = self.published()
        return all(path in there and there[path][0] == file_hash for path, file_hash in self.newest.items())

    def _about(self) -> str:
        return f"{self.disk.changes()} {self.daemon.text()[-3000:]}\n{self.server.text()[-3000:]}"
