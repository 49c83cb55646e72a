"""What must hold once nothing changes any more: docs/failure-model.md, asserted after every round."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from chunkyd.control.base import JobView
from chunkyd.errors import ChunkyError
from tests.chaos.ledger import aside
from tests.chaos.plan import MIB
from tests.chaos.source import DROP, ROOTS, Source
from tests.chaos.world import CHUNK, PARALLEL, WORKERS, Broken, World
from tests.e2e.programs import sha256, tree, wait_until

REST_SECONDS = 150.0  # far more than any backoff or hold; a loaded machine is slow, a stuck job waits for ever
MOST_MEMORY = 110 * MIB
_TRACE = re.compile(
    r"Traceback|unexpected|Exception in|never awaited|SystemError|Internal error|AssertionError", re.IGNORECASE
)

Tree = dict[bytes, tuple[str, int, int]]


class Rest:
    """One world and its source, at rest."""

    def __init__(self, world: World, source: Source) -> None:
        self._world = world
        self._source = source
        self._read_logs: dict[str, int] = {}
        self.spare = 0  # bytes of chunks that came over the network and were not the ones stored
        self._seen: dict[bytes, tuple[int, int, str]] = {}

    def come(self, seconds: float = REST_SECONDS) -> None:
        """Wait until all is at rest, and look at everything."""
        for program in self._world.programs().values():
            if not program.running():
                raise Broken(f"ended by itself\n{program.text()[-3000:]}")
        wanted = self._wanted()
        wait_until("the daemon answers", self._world.daemon.answers, seconds, self._world.daemon.text)
        wait_until(
            "no job is left, and all has arrived", lambda: self._arrived(wanted), seconds, lambda: self.picture(wanted)
        )
        wait_until("no session is left", lambda: not self._used(), seconds, lambda: self.picture(wanted))
        self._clear_abandoned(seconds)
        self._versions()
        self._copies()
        self._dropped()
        self._leftovers()
        self._logs()
        self._memory()
        self._sent_again()

    def end(self) -> None:
        """The last look: what the server says of itself, and both databases."""
        self._world.server.command("verify")
        for path in (self._world.server.data / "catalog.sqlite3", self._world.daemon.state / "jobs.sqlite3"):
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as rows:
                verdict = rows.execute("PRAGMA integrity_check").fetchone()[0]
            if verdict != "ok":
                raise Broken(f"{path}: {verdict}")

    # All has arrived

    def _wanted(self) -> Tree:
        """What stands in the folders whose files stay; by the path it is to be published under."""
        wanted: Tree = {}
        for root in ROOTS:
            found = tree(Path(os.fsdecode(self._source.place(root))))
            wanted |= {os.path.join(root, path): version for path, version in found.items()}
        if self._source.sizes.keys() != wanted.keys():
            raise Broken("the folders whose files stay are not as they were left")
        return wanted

    def _arrived(self, wanted: Tree) -> bool:
        if self._jobs() or self._waiting() or self._status_is_not_ok():
            return False
        return self._differences(wanted) == []

    def _jobs(self) -> list[JobView]:
        try:
            return list(self._world.control().jobs(limit=50).jobs)
        except ChunkyError as error:
            raise Broken(f"the daemon does not answer: {error}\n{self._world.daemon.text()[-3000:]}") from error

    def _status_is_not_ok(self) -> str:
        status = self._world.control().status()
        changing = [folder.name for folder in status.folders if folder.changing]
        return (
            ""
            if status.state == "ok" and not changing
            else f"{status.state} {status.problems} {status.held} {changing}"
        )

    def _differences(self, wanted: Tree) -> list[bytes]:
        """Files that are not there, or not as they should be; unchanged ones are not read again."""
        top = os.fsencode(self._world.server.files())
        return [path for path, version in wanted.items() if self._version(os.path.join(top, path)) != version]

    def _version(self, path: bytes) -> tuple[str, int, int] | None:
        try:
            status = os.lstat(path)
        except OSError:
            return None
        key = (status.st_ino, status.st_ctime_ns)
        if self._seen.get(path, (0, 0, ""))[:2] != key:
            self._seen[path] = (*key, sha256(path))
        return self._seen[path][2], status.st_mode & 0o755, status.st_mtime_ns

    def _waiting(self) -> list[bytes]:
        return os.listdir(self._source.place(DROP))

    def _sessions(self) -> list[tuple[str, str, bytes]]:
        data = self._world.server.data
        with contextlib.closing(sqlite3.connect(f"file:{data}/catalog.sqlite3?mode=ro", uri=True, timeout=30)) as rows:
            return rows.execute("SELECT session_id, state, target FROM session WHERE state != 'expired'").fetchall()

    def _partials(self) -> list[str]:
        return os.listdir(self._world.server.data / "partial")

    def _used(self) -> list[str]:
        """Sessions of which a chunk was ever stored, so that their client knew them; and partials of no session."""
        known = {session for session, _ in self._world.stored.said()}
        sessions = self._sessions()
        strays = set(self._partials()).difference(session_id for session_id, _, _ in sessions)
        return [str(each) for each in sessions if each[0][:8] in known] + sorted(strays)

    def _clear_abandoned(self, seconds: float) -> None:
        """A client may lose the answer to an initiate, and then the file: that session is left to expire (the order of
        an upload, docs/failure-model.md). One for an interruption at most; the administrator gets rid of it.
        """
        hits = self._world.hits
        abandoned = self._sessions()
        hits["abandoned"] += len(abandoned)
        if hits["abandoned"] > hits["kill"] + hits["term"] + hits["fault"]:
            raise Broken(f"more sessions were abandoned than anything was interrupted: {abandoned}")
        for session_id, _, _ in abandoned:
            with contextlib.suppress(AssertionError):  # it has come to its own end since we looked
                self._world.server.command("sessions", "expire", session_id)
        wait_until("no partial is left", lambda: not self._partials(), seconds, lambda: str(self._partials()))

    def picture(self, wanted: Tree) -> str:
        """For a wait in vain."""
        parts = [
            *(f"job {job.id} {job.path!r} {job.state} {job.reason} {job.error}" for job in self._jobs()),
            f"not as wanted: {self._differences(wanted)[:10]}",
            f"not deleted: {self._waiting()[:10]}",
            f"sessions and partials: {self._used()[:10]} {self._sessions()[:10]} {self._partials()[:10]}",
            f"status: {self._status_is_not_ok()}",
            self._world.daemon.text()[-3000:],
            self._world.server.text()[-2000:],
        ]
        return "\n".join(parts)

    # What was ever published

    def _published(self) -> dict[bytes, str]:
        top = os.fsencode(self._world.server.files())
        found = {}
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                version = self._version(path)
                assert version is not None
                found[os.path.relpath(path, top)] = version[0]
        return found

    def _versions(self) -> None:
        """Everything at the server is a version that existed at the source, under that path."""
        for path, file_hash in self._published().items():
            if not self._source.ledger.knows(path, file_hash):
                raise Broken(f"{path!r} is published with bytes that were never there: {file_hash}")

    def _copies(self) -> None:
        """No version is kept twice in a row."""
        kept: dict[bytes, dict[int, str]] = defaultdict(dict)
        published = self._published()
        for path, file_hash in published.items():
            stem, number = aside(path)
            if number is not None and len(os.path.basename(path)) < 250:
                kept[stem][number] = file_hash
        for stem, versions in kept.items():
            row = [versions[number] for number in sorted(versions)] + [published.get(stem, "")]
            if any(one == other for one, other in pairwise(row)):
                raise Broken(f"{stem!r}: the same version was kept twice in a row: {row}")

    def _dropped(self) -> None:
        """What was deleted at the source is published in its last version."""
        published = self._published()
        for path, file_hash in self._source.dropped.items():
            if published.get(path) != file_hash:
                raise Broken(
                    f"{path!r} was deleted at the source; the server has {published.get(path)}, not {file_hash}"
                )

    def _leftovers(self) -> None:
        """No hidden or temporary name of ours is left anywhere."""
        for root in (self._world.folder, self._world.server.data, self._world.daemon.state):
            for folder, _, names in os.walk(os.fsencode(root)):
                left = [name for name in names if name.startswith((b".chunkyd-", b".old-"))]
                if left:
                    raise Broken(f"left behind in {folder!r}: {left}")

    # What the programs did

    def _logs(self) -> None:
        for name, program in self._world.programs().items():
            with program.log.open("rb") as log:
                log.seek(self._read_logs.get(name, 0))
                text = log.read().decode(errors="replace")
                self._read_logs[name] = log.tell()
            for line in text.splitlines():
                if _TRACE.search(line):
                    at = text.index(line)
                    raise Broken(f"{name}'s log: {text[max(0, at - 500) : at + 3000]}")

    def _memory(self) -> None:
        for name, most in self._world.memory.items():
            if most > MOST_MEMORY:
                raise Broken(f"{name} grew to {most >> 20} MiB")

    def _sent_again(self) -> None:
        """Beyond what is stored little more has come than what was on its way when something happened.

        How much was, depends on the moment: all workers' chunks at the most, next to nothing as a rule. Two chunks for
        each interruption are more than ever come together; a client that sent what is stored would pass that by far.
        One death alone is weighed to the byte, in tests/faults/stage.py.
        """
        hits = self._world.hits
        interruptions = hits["kill"] + hits["term"] + hits["stop"] + hits["fault"]
        allowed = WORKERS * PARALLEL * CHUNK + interruptions * 2 * CHUNK
        self.spare = self._world.proxy.body_bytes - self._world.stored.total()
        if self.spare > allowed:
            raise Broken(
                f"{self.spare} bytes more were sent than are stored; {allowed} were allowed after {dict(hits)}"
            )
