"""One file to one server: open, hash, find or open the session, send what is missing, see it complete, end the session.

    from chunkyd.upload.uploader import Uploader
    result = Uploader("https://files.example.org", "footage.mov", token="…").upload()

Rules: the session is remembered before the first chunk, the completion before the session is ended; a session that is
given up is ended before its successor is opened; a file that changed is never reported as sent. A big file that holds
still is read once, where the server takes its hash last (`late`).
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from typing import Literal, cast

import msgspec

from chunkyd.checkpoints import reached
from chunkyd.clock import Clock, SinceSet, SystemClock
from chunkyd.errors import ChunkyError, NetworkError, NotChunky, Problem, SourceChanged, UsageError
from chunkyd.files import Fingerprint, absolute
from chunkyd.protocol.late_hash import EXTENSION, is_file_version
from chunkyd.protocol.messages import EMPTY_FILE_HASH
from chunkyd.protocol.paths import MAX_PART_BYTES, MAX_PATH_BYTES, check_path
from chunkyd.upload.control import Control
from chunkyd.upload.late import LATE_BYTES, version_name
from chunkyd.upload.limiter import Limiter
from chunkyd.upload.machine import Rules
from chunkyd.upload.memory import Memory, Remembered, UploadKey
from chunkyd.upload.midstate import begin
from chunkyd.upload.progress import Meter, Phase, Progress, seconds_left
from chunkyd.upload.run import Assignment, Picture, Run
from chunkyd.upload.source import Source
from chunkyd.upload.sqlite_memory import SqliteMemory
from chunkyd.upload.transport import Client

_REMEMBERED_HASH_BYTES = 4 * 1024 * 1024  # a smaller file is hashed again faster than its hash is written down
_REPORT_SECONDS = 0.1


class Result(msgspec.Struct, frozen=True):
    """An upload that is complete: published, durable, with this hash.

    `bytes_sent`: over the wire in this run; `resumed_from`: bytes the server had when this run began; `instant`: the
    server had this version already. `fingerprint`: the version that was sent.
    """

    file_hash: str
    size: int
    bytes_sent: int
    resumed_from: int
    session_id: str
    instant: bool
    fingerprint: Fingerprint


class Uploader:
    """One upload of one file. `upload` works in the calling thread; the other methods may be called from any other.

    `name`: the published path, by default the file's base name. `state`: the file of the session memory, by default
    one in the user's state folder; `memory` takes its place. `expected`: the version to send; another one raises
    SourceChanged. `since_set`: one that has watched the clock for longer. `root`: a folder above the path (both
    absolute); no link below it is followed. `client`: a shared one; it brings URL, token and the like. Sizes in bytes,
    times in seconds.
    """

    def __init__(
        self,
        url: str,
        path: str | bytes,
        *,
        name: str | bytes | None = None,
        token: str | None = None,
        memory: Memory | None = None,
        state: str | None = None,
        parallel_chunks: int = 4,
        chunk_size: int | None = None,
        attempts: int = 5,
        base: float = 1.0,
        max_wait: float = 300.0,
        wait_when_full: bool = True,
        verify: Literal["changed", "always"] = "changed",
        limiter: Limiter | None = None,
        progress: Callable[[Progress], None] | None = None,
        ca_file: str | None = None,
        proxy: str | None = None,
        allow_plain: bool = False,
        client: Client | None = None,
        clock: Clock | None = None,
        since_set: SinceSet | None = None,
        stop: threading.Event | None = None,
        expected: Fingerprint | None = None,
        root: bytes | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._since_set = since_set or SinceSet(self._clock)
        self._path = absolute(os.fsencode(path)) if root is None else os.fsencode(path)
        self._root = root
        self._own_client = client is None
        self._client = client or Client(
            url, token=token, ca_file=ca_file, proxy=proxy, allow_plain=allow_plain, clock=self._clock
        )
        self._key = UploadKey(self._client.url, self._path, _published(self._path, name))
        self._memory = memory
        self._state = state
        self._rules = Rules(attempts, base, max_wait, max(1, parallel_chunks), chunk_size, wait_when_full)
        self._verify = verify
        self._limiter = limiter
        self._progress = progress
        self._expected = expected
        self._control = Control(stop)
        self._meter = Meter()
        self._reported: tuple[float, str] = (float("-inf"), "")

    def pause(self) -> None:
        """Send nothing new; chunks under way end. The session stays."""
        self._control.pause()

    def resume(self) -> None:
        """Go on after a pause."""
        self._control.resume()

    def stop(self) -> None:
        """Make `upload` raise Interrupted within a second, whatever it is doing."""
        self._control.stop()

    def upload(self) -> Result:
        """Carry the file over.

        Raises SourceGone, SourceChanged, SourceUnreadable; Problem and NotChunky (the server's answer, to be acted on);
        Unreachable (attempts used up; resumable), Interrupted (resumable), StorageFull and StateError (this machine).
        """
        memory = self._memory or SqliteMemory(self._state)
        try:
            source = Source(self._path, self._root)
            try:
                return self._upload(source, memory)
            finally:
                source.close()
        finally:
            if isinstance(memory, SqliteMemory) and memory is not self._memory:
                memory.close()
            if self._own_client:
                self._client.close()

    def _upload(self, source: Source, memory: Memory) -> Result:
        identity = source.identity()
        if self._expected is not None and not identity.same_version(self._expected, stable_inodes=identity.inode != 0):
            raise SourceChanged("the file is not the version that was to be sent")
        remembered = memory.recall(self._key)
        assignment = self._assignment(source, identity, remembered, memory)
        if remembered is not None and (remembered.file_hash, remembered.total_bytes) != (assignment.named, source.size):
            memory.forget(self._key, remembered.session_id)
            reached("upload.version.superseded")
            self._end_with_patience(remembered, memory)
            remembered = None
        self._end_leftovers(memory)
        run = self._run_or_hash_first(assignment, memory, remembered.session_id if remembered else None)
        result = Result(
            run.file_hash or "",
            source.size,
            run.bytes_sent,
            run.found_bytes or 0,
            run.session_id,
            run.instant and run.bytes_sent == 0,
            source.fingerprint,
        )
        if remembered is not None and not remembered.fingerprint.same_version(identity):
            self._run(assignment, memory, None)  # same bytes, new time or mode: the server only updates those
        self._tell(Picture("done", source.size, result.bytes_sent, ""), source.size)
        return result

    def _run_or_hash_first(self, assignment: Assignment, memory: Memory, session_id: str | None) -> Run:
        """Where the server takes no late hash any more it was set back: it gets one at once, and is asked anew."""
        try:
            return self._run(assignment, memory, session_id)
        except Problem as found:
            if assignment.version is None or found.name != "malformed-request":
                raise
        self._client.forget_extensions()
        source = assignment.source
        file_hash = assignment.file_hash or self._take_hash(source, source.identity(), memory)
        return self._run(Assignment(self._key, source, file_hash, self._rules), memory, None)

    def _run(self, assignment: Assignment, memory: Memory, session_id: str | None) -> Run:
        size = assignment.source.size

        def report(picture: Picture) -> None:
            self._tell(picture, size)

        run = Run(assignment, self._client, memory, self._control, self._limiter, self._clock, report, session_id)
        try:
            run.run()
            reached("upload.complete.heard")
            assignment.source.check()
        except Problem as found:
            if found.action == "rehash":
                memory.forget(self._key, run.session_id if run.has_session else "", rehash=True)
                if assignment.version is not None:
                    memory.unsteady(self._key, assignment.source.identity(), assignment.version)
            raise
        except SourceChanged:
            if assignment.version is not None:
                self._let_go(assignment, run, memory)
            raise
        except NotChunky:
            self._client.forget_extensions()
            raise
        with self._client.ending(run.session_id):
            memory.completed(self._key)
            reached("upload.complete.recorded")
            self._end(run.session_id, run.named, memory)
        return run

    def _let_go(self, assignment: Assignment, run: Run, memory: Memory) -> None:
        """The file did not hold still, and nobody has read all of it: its session has no future, and ends."""
        memory.unsteady(self._key, assignment.source.identity(), assignment.named)
        reached("upload.version.unsteady")
        if not run.has_session:
            return
        memory.forget(self._key, run.session_id)
        with self._client.ending(run.session_id) as mine:
            if mine:
                self._end(run.session_id, run.named, memory)

    # The file's hash

    def _assignment(
        self, source: Source, identity: Fingerprint, remembered: Remembered | None, memory: Memory
    ) -> Assignment:
        """With its hash, where it is known, or of use before the file is sent; else with what stands for it."""
        file_hash = self._known_hash(source, identity, remembered, memory)
        version = version_name(self._key, identity)
        if remembered is not None and remembered.file_hash == version:
            if self._client.offers(EXTENSION, self._control.fresh_switch()):
                part = remembered.hash_part if self._verify == "changed" else None
                if file_hash is None and not self._holds_still(source):
                    file_hash = self._take_hash(source, identity, memory, part)
                return Assignment(self._key, source, file_hash, self._rules, version, part)
        elif file_hash is None and self._may_be_read_once(source, memory):
            return Assignment(self._key, source, None, self._rules, version)
        return Assignment(self._key, source, file_hash or self._take_hash(source, identity, memory), self._rules)

    def _may_be_read_once(self, source: Source, memory: Memory) -> bool:
        return (
            source.size > LATE_BYTES
            and self._holds_still(source)
            and not memory.hash_first(self._key, source.size)
            and self._client.offers(EXTENSION, self._control.fresh_switch())
        )

    def _holds_still(self, source: Source) -> bool:
        return source.holds_still(self._clock.wall(), self._since_set.seconds())

    def _known_hash(
        self, source: Source, identity: Fingerprint, remembered: Remembered | None, memory: Memory
    ) -> str | None:
        if source.size == 0:
            return EMPTY_FILE_HASH
        if self._verify == "always":
            return None
        same = remembered is not None and remembered.fingerprint.same_version(identity)
        if remembered is not None and same and not is_file_version(remembered.file_hash):
            return remembered.file_hash
        return memory.known_hash(self._key, identity) if source.size > _REMEMBERED_HASH_BYTES else None

    def _take_hash(self, source: Source, identity: Fingerprint, memory: Memory, part: str | None = None) -> str:

        def proceed(done: int) -> None:
            self._control.hold()
            self._tell(Picture("hashing", done, 0, ""), source.size)

        settled = source.has_settled(self._clock.wall())
        file_hash = source.sha256(proceed, begin(source.size, part))
        reached("upload.hash.taken")
        if source.size > _REMEMBERED_HASH_BYTES and settled:
            memory.remember_hash(self._key, identity, file_hash)
        return file_hash

    # Sessions to be ended

    def _end(self, session_id: str, file_hash: str, memory: Memory) -> bool:
        """End a session; where that fails it stays among the endings. Whether the server could be asked."""
        try:
            self._client.end(session_id, file_hash, self._control.fresh_switch())
        except NetworkError:
            return False
        except ChunkyError:
            return True  # an answer, if not a good one: asking at once again would not make it better
        reached("upload.end.answered")
        memory.ended(self._key.url, session_id)
        reached("upload.end.recorded")
        return True

    def _end_with_patience(self, superseded: Remembered, memory: Memory) -> None:
        """A superseded session ends before its successor is opened, so that it frees its space and cannot publish."""
        for attempt in range(self._rules.attempts):
            self._control.check()
            if self._end(superseded.session_id, superseded.file_hash, memory):
                return
            ceiling = min(self._rules.max_wait, self._rules.base * 2.0**attempt)
            self._control.sleep(random.random() * ceiling)  # noqa: S311  # jitter, not a secret

    def _end_leftovers(self, memory: Memory) -> None:
        for session_id, file_hash in memory.endings(self._key.url):
            self._control.check()
            with self._client.ending(session_id) as mine:
                if mine and not self._end(session_id, file_hash, memory):
                    return

    # Progress

    def _tell(self, picture: Picture, total: int) -> None:
        if self._progress is None:
            return
        now = self._clock.monotonic()
        moment, phase = self._reported
        if picture.phase == phase and now - moment < _REPORT_SECONDS:
            return
        self._reported = (now, picture.phase)
        hashing = picture.phase == "hashing"
        rate = self._meter.rate(picture.bytes_done if hashing else picture.bytes_sent, now)
        self._progress(
            Progress(
                phase=cast(Phase, picture.phase),
                bytes_done=picture.bytes_done,
                bytes_total=total,
                bytes_sent=picture.bytes_sent,
                rate=rate,
                seconds_left=seconds_left(total - picture.bytes_done, rate),
                detail=picture.detail,
            )
        )


def _published(path: bytes, name: str | bytes | None) -> bytes:
    wanted = os.path.basename(path) if name is None else os.fsencode(name)
    try:
        return check_path(wanted)
    except ValueError as error:
        long = len(wanted) > MAX_PATH_BYTES or max(map(len, wanted.split(b"/"))) > MAX_PART_BYTES
        raise UsageError(
            f"the file cannot be published under this name: {error}",
            mend="Give the file, or a folder above it, a shorter name." if long else "",
        ) from error
