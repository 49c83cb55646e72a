"""A server, a daemon and a watched folder, one of them about to die at a checkpoint; and what must hold afterwards.

The invariants (docs/failure-model.md) are asserted here, for every scenario alike: what the server has said is stored
it still has after its restart; at rest the published tree is the expected one, byte for byte, with times and modes; all
jobs have ended as they should; no session, no partial and no hidden or temporary file is left; and no interruption made
more than the chunks on their way come twice.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from chunkyd.control.client import ControlClient
from chunkyd.errors import ChunkyError, Problem
from chunkyd.upload.transport import Client
from tests.e2e.programs import Daemon, Program, Server, tree, wait_until

MIB = 1 << 20
CHUNK = MIB
PARALLEL = 2
FILE = 5 * MIB + 1234  # several chunks, and big enough for its hash to be remembered
Tree = dict[bytes, tuple[str, int, int]]
_TOGETHER = re.compile(r"POST /uploadBatch 200 .* body=(\d+) ")
_STORED = re.compile(r"PATCH /uploadChunk 200 .* session=(\w+) range=(\d+)-(\d+)/\d+ ")


def ignored() -> None:
    """Nothing to do meanwhile."""


class Stage:
    """`outbox` under a daemon, and the server it sends to. Programs start when a scenario says so; all end with it."""

    def __init__(self, folder: Path, *, server: Any = None, box: Any = None, daemon: Any = None) -> None:
        self.folder = folder
        self.box = folder / "outbox"
        self.box.mkdir()
        self.server = Server(folder, **{"existing": "keep", **(server or {})})
        self.daemon = Daemon(
            folder,
            self.server.url,
            [{"path": str(self.box), **(box or {})}],
            **{
                "uploads": {
                    "chunk_size": f"{CHUNK // MIB}MiB",
                    "parallel_chunks": PARALLEL,
                    "retry": {"base": "50ms", "max": "400ms"},
                },
                **(daemon or {}),
            },
        )
        self.kills = 0
        self.to_send = 0  # bytes that have to travel: of each file put, and of what a fault makes worthless on purpose
        self.others: list[Server] = []  # that the daemon was sending to before
        self.moved_to: list[Path] = []  # other folders in which nothing may be left lying about

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for program in (self.daemon, self.server, *self.others):
            if program.running():
                program.go_on()
            program.kill()

    # Files

    def put(self, name: str, content: int | bytes = FILE) -> Path:
        """A file in the watched folder, there all at once; of random bytes where only their number is given."""
        path = self.box / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "being-made"
        temporary.write_bytes(os.urandom(content) if isinstance(content, int) else content)
        self.to_send += temporary.stat().st_size
        temporary.rename(path)
        return path

    def published(self) -> Tree:
        """What the server shows of the watched folder."""
        return tree(self.server.files() / "outbox")

    # Living

    def start_server(self) -> None:
        """Until it answers a request: the port is open before the catalog is."""
        self.server.start()
        with contextlib.closing(Client(self.server.url)) as client:
            client.limits()

    def another_server(self) -> Server:
        """From the daemon's next look at its configuration on it sends to a new server, which runs; the one before."""
        before, folder = self.server, self.folder / f"server-{self.server.port}-is-left"
        folder.mkdir()
        self.send_to(Server(folder, existing="keep"))
        self.start_server()
        return before

    def send_to(self, server: Server) -> None:
        """The same for a server that is there."""
        self.others.append(self.server)
        self.server = server
        self.daemon.settings["server"]["url"] = server.url
        self.daemon.write_config()

    def start_daemon(self) -> None:
        """Until it answers; one that runs already is waited for."""
        if self.daemon.running():
            self.daemon.wait_ready()
        else:
            self.daemon.start()

    def arrive(self, *, stop: str = "") -> None:
        """What is in the folder arrives, without any fault; then `server` or `daemon` is stopped."""
        self.start_server()
        self.start_daemon()
        self.at_rest()
        if stop:
            program: Program = getattr(self, stop)
            program.stop()

    # Dying

    def server_dies(self, arming: str, meanwhile: Callable[[], object] = ignored, again: bool = True) -> None:
        """The server, started armed, dies at the checkpoint; it starts again, and has all it has said it had."""
        self._dies(self.server, arming, meanwhile)
        frozen = self.daemon.running()
        if frozen:
            os.kill(self.daemon.pid, signal.SIGSTOP)
        said = self.said_stored()
        if again:
            self.start_server()
            self._still_stored(said)
        if frozen:
            self.daemon.go_on()

    def daemon_dies(self, arming: str, meanwhile: Callable[[], object] = ignored, again: bool = True) -> None:
        """The daemon, started armed, dies at the checkpoint; then it starts again."""
        self._dies(self.daemon, arming, meanwhile)
        if self.server.running():
            self._still_stored(self.said_stored())
        if again:
            self.daemon.start()

    def _dies(self, program: Server | Daemon, arming: str, meanwhile: Callable[[], object]) -> None:
        program.arm(arming)
        program.begin()
        wait_until("it serves, or is dead", lambda: program.answers() or not program.running(), 30, program.text)
        with contextlib.suppress(ChunkyError, OSError):  # what is asked of one who dies may stay unanswered
            meanwhile()
        wait_until("it is dead", lambda: not program.running(), 40, lambda: self.server.text() + self.daemon.text())
        program.wait_killed()
        self.note_death(program, arming)

    def note_death(self, program: Program, arming: str) -> None:
        """It has died where it should; the next start is not armed."""
        name = arming.split(",")[-1].partition(":")[0]
        assert program.text().rstrip().endswith(f"checkpoint {name}: killed"), program.text()[-2000:]
        program.arm(None)
        self.kills += 1

    # What was said to be stored

    def said_stored(self) -> list[tuple[str, int, int]]:
        """Every chunk the server has answered 200 to: the session's first digits, and the range."""
        found = _STORED.finditer(self.server.text())
        return [(match[1], int(match[2]), int(match[3]) + 1) for match in found]

    def sent_together(self) -> int:
        """Bytes of all batches that were answered: of files, and of their heads."""
        return sum(int(size) for size in _TOGETHER.findall(self.server.text()))

    def received(self) -> int:
        """Bytes of all bodies that the server has taken: chunks, and batches with their heads."""
        return self.sent_together() + sum(stop - start for _, start, stop in self.said_stored())

    def sessions(self) -> list[tuple[str, str, str, int, str]]:
        """Session ID, user, file hash or what stands for it, size and state, of all but tombstones, as recorded."""
        with contextlib.closing(sqlite3.connect(f"file:{self.server.data}/catalog.sqlite3?mode=ro", uri=True)) as rows:
            key = "coalesce(file_version, file_hash)"
            question = f"SELECT session_id, user, {key}, total_bytes, state FROM session WHERE state != 'expired'"
            return rows.execute(question).fetchall()

    def _still_stored(self, said: Iterable[tuple[str, int, int]]) -> None:
        """Of sessions that are still there, nothing that was said to be stored is missing."""
        ranges = list(said)
        with contextlib.closing(Client(self.server.url)) as client:
            for session_id, _, file_hash, size, _ in self.sessions():
                with contextlib.suppress(Problem):  # ended meanwhile, or dead
                    missing = client.status(session_id, file_hash, size).missing
                    for first, last in missing:
                        lost = [each for each in ranges if session_id.startswith(each[0]) and first < each[2]]
                        assert not [each for each in lost if each[1] < last], (missing, ranges)

    def check_little_was_sent_twice(self) -> None:
        """Of no session, and of no file by way of another session, more than the chunks on their way at each death."""
        in_flight = self.kills * PARALLEL * CHUNK
        counts = Counter(self.said_stored())
        twice = sum((count - 1) * (stop - start) for (_, start, stop), count in counts.items())
        everything = sum(count * (stop - start) for (_, start, stop), count in counts.items())
        assert twice <= in_flight, counts
        assert everything <= self.to_send + in_flight, counts

    # At rest

    def at_rest(self, expected: Tree | None = None, states: Iterable[str] = ("done",), seconds: float = 60) -> None:
        """Both run, nothing changes any more: all invariants hold. `expected`: what the server shows, else the box."""
        wanted = tree(self.box) if expected is None else expected

        def about() -> str:
            return f"{self.difference(wanted)}\n{self.daemon.text()[-3000:]}\n{self.server.text()[-3000:]}"

        wait_until("all has arrived", lambda: self.published() == wanted, seconds, about)
        wait_until("no job is left", lambda: not self.jobs(), seconds, lambda: f"{self.jobs()}{about()}")
        self.server_at_rest(seconds)
        assert self.published() == wanted, about()
        history = ControlClient(str(self.daemon.socket)).history().jobs
        assert {job.state for job in history} <= set(states), history
        assert self.leftovers() == []
        self.check_little_was_sent_twice()

    def server_at_rest(self, seconds: float = 60) -> None:
        """No session and no partial is left."""

        def about() -> str:
            return f"{self.sessions()} {self.partials()}\n{self.daemon.text()[-3000:]}\n{self.server.text()[-3000:]}"

        wait_until("no session is left", lambda: not self.sessions(), seconds, about)
        wait_until("no partial is left", lambda: not self.partials(), seconds, about)

    def jobs(self) -> list[tuple[str, str, str | None, str | None]]:
        """Path, state, reason and error of the unfinished and failed jobs."""
        found = ControlClient(str(self.daemon.socket)).jobs().jobs
        return [(job.path, job.state, job.reason, job.error) for job in found]

    def partials(self) -> list[str]:
        """Everything in the partials' folder."""
        return os.listdir(self.server.data / "partial")

    def leftovers(self) -> list[str]:
        """Hidden and temporary files of ours, wherever one could be."""
        roots = [self.box, self.daemon.state, self.server.data, *self.moved_to]
        names = [path for root in roots for path in root.rglob("*") if path.name.startswith((".chunkyd-", ".old-"))]
        return [str(path) for path in names if stat.S_ISREG(path.lstat().st_mode)]

    def difference(self, expected: Tree) -> str:
        """For a failed wait: what is missing, too much, or other."""
        there = self.published()
        return f"missing {expected.keys() - there.keys()}, too much {there.keys() - expected.keys()}, other " + str(
            [path for path in expected.keys() & there.keys() if expected[path] != there[path]]
        )
