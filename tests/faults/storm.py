"""Many files at once through one proxy, each with a fault of its own: a matrix of faults in the time of the slowest.

A script is the list of faults that meet one file, each at a step: the nth request of that step for that file. What
became of every file is noted, and each case's test looks at its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from chunkyd.control.client import ControlClient
from tests.e2e.programs import Daemon, Server, running, wait_until
from tests.upload.faultproxy import Break, Fault, FaultProxy, Rewrite, Seen

KIB = 1024
CHUNK = 256 * KIB
CHUNKS = 6
SIZE = (CHUNKS - 1) * CHUNK + 1000  # too big to go together with others
PARALLEL = 2
PATHS = {
    "initiate": "/initiateUploadSession",
    "chunk": "/uploadChunk",
    "status": "/uploadStatus",
    "end": "/endUpload",
}


@dataclasses.dataclass(frozen=True)
class At:
    """This fault for the nth request of a step (and the `times` - 1 after it)."""

    step: str
    fault: Fault
    nth: int = 1
    times: int = 1


Script = tuple[At, ...]


@dataclasses.dataclass
class Case:
    """One file, what is to happen to it, and what became of it."""

    script: Script
    content: bytes
    steps: list[str] = dataclasses.field(default_factory=list)  # of its requests, as they came
    met: int = 0  # faults that came true
    bytes_sent: int = 0
    published: bytes | None = None
    state: str = ""
    error: str | None = None

    @property
    def hash(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def counts(self) -> Counter[str]:
        """How many requests there were of each step."""
        return Counter(self.steps)

    def next_fault(self, step: str) -> Fault | None:
        """For the next request of this step."""
        self.steps.append(step)
        nth = self.steps.count(step)
        for each in self.script:
            if each.step == step and each.nth <= nth < each.nth + each.times:
                self.met += nth == each.nth
                return each.fault
        return None


class Storm:
    """A server, a daemon, the proxy between them, and the files."""

    def __init__(self, folder: Path, scripts: Mapping[str, Script], **daemon: object) -> None:
        self.cases = {name: Case(script, _content(number)) for number, (name, script) in enumerate(scripts.items())}
        self._by_hash = {case.hash: case for case in self.cases.values()}
        self._guard = threading.Lock()
        self.server = Server(folder)
        self.proxy = FaultProxy(self.server.port)
        self.proxy.plan = self._plan
        self.refused: dict[str, str] = {}  # file → in which words the server refused it, where that is retried
        self._box = folder / "outbox"
        self.daemon = Daemon(
            folder,
            self.proxy.url,
            [{"path": str(self._box)}],
            uploads={
                "workers": min(64, len(scripts)),
                "chunk_size": "256KiB",
                "parallel_chunks": PARALLEL,
                "retry": {"base": "100ms", "max": "1s"},
            },
            **daemon,
        )

    def _plan(self, seen: Seen) -> Fault | None:
        case = self._by_hash.get(seen.file_hash)
        step = next((step for step, path in PATHS.items() if path == seen.path), "")
        with self._guard:
            return case.next_fault(step) if case is not None else None

    def rage(self, seconds: float, *, mangled: bool = False) -> Storm:
        """Until all have arrived, whole or not; every case knows its end then.

        `mangled`: what is refused is retried; and sessions may be left, whose client heard that there is none.
        """
        self._box.mkdir()
        for name, case in self.cases.items():
            (self._box / name).write_bytes(case.content)
        with self.proxy, running(self.server, self.daemon):
            wait_until("all jobs have ended", self._over_after_retries if mangled else self._over, seconds, self._about)
            wait_until("all sessions have ended", lambda: mangled or self._ended(), seconds, self._about)
            self._note()
        return self

    def _control(self) -> ControlClient:
        return ControlClient(str(self.daemon.socket))

    def _over(self) -> bool:
        return len(self._control().history(limit=1000).jobs) >= len(self.cases) and not self._control().jobs().jobs

    def _over_after_retries(self) -> bool:
        failed = [job for job in self._control().jobs().jobs if job.state == "failed"]
        if failed:
            self.refused |= {job.path: job.error or "" for job in failed}
            self._control().retry(tuple(job.id for job in failed))  # no other, that failed only now and was not noted
        return self._over()

    def _ended(self) -> bool:
        return not list((self.server.data / "partial").iterdir()) and not self._sessions()

    def _sessions(self) -> int:
        """Those on record; a published file's has no partial any more."""
        with contextlib.closing(sqlite3.connect(f"file:{self.server.data}/catalog.sqlite3?mode=ro", uri=True)) as rows:
            (number,) = rows.execute("SELECT count(*) FROM session WHERE state != 'expired'").fetchone()
        return int(number)

    def _about(self) -> str:
        return "\n".join(
            [
                *(f"{job.path} {job.state} {job.reason} {job.error}" for job in self._control().jobs().jobs),
                self.daemon.text()[-4000:],
                self.server.text()[-4000:],
            ]
        )

    def _note(self) -> None:
        for job in self._control().history(limit=1000).jobs:
            self.cases[job.path].state, self.cases[job.path].error = job.state, job.error
        for name, case in self.cases.items():
            path = self.server.files() / "outbox" / name
            case.published = path.read_bytes() if path.exists() else None
            case.bytes_sent = self.proxy.bytes_of[case.hash]

    def check(self, name: str, interruptions: int) -> Case:
        """The case's file is there, whole; its job is done; no more came twice than was on its way."""
        case = self.cases[name]
        assert case.met == len(case.script), "not every fault came true"
        assert case.published == case.content
        assert case.state == "done", (case.state, case.error)
        assert case.bytes_sent <= len(case.content) + interruptions * PARALLEL * CHUNK
        return case


def _content(number: int) -> bytes:
    """No two files alike."""
    block = hashlib.sha256(b"%d" % number).digest() * (CHUNK // 32)
    return (block * CHUNKS)[:SIZE]


def status_prelude() -> At:
    """Makes the client ask for the status: a lost chunk does."""
    return At("chunk", Break("work", "reset"), times=PARALLEL)


def verify_prelude() -> At:
    """The client is told that its file is being verified, from the last chunk on."""
    return At("chunk", Rewrite(_verifying), times=9)


def _verifying(answer: bytes) -> bytes:
    if b'"complete"' not in answer:
        return answer
    body = b'{"status":"verifying"}'
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
