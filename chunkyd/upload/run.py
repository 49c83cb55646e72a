"""Drives the machine: makes the requests it asks for, with threads, and tells it the answers.

The machine is touched by the driving thread only; the threads of the crew see requests and return events.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from chunkyd.checkpoints import reached
from chunkyd.clock import Clock
from chunkyd.errors import ChunkyError, NetworkError, Problem
from chunkyd.protocol import messages
from chunkyd.protocol.ranges import Range
from chunkyd.upload.body import Body
from chunkyd.upload.control import LOOK_SECONDS, Control
from chunkyd.upload.crew import Crew
from chunkyd.upload.late import Frontier
from chunkyd.upload.limiter import Limiter
from chunkyd.upload.machine import (
    AskStatus,
    Declare,
    Declared,
    Event,
    Failed,
    Hashed,
    Initiate,
    Known,
    Machine,
    Phase,
    Refused,
    Request,
    Rules,
    Send,
    Stored,
    TakeHash,
)
from chunkyd.upload.memory import Memory, Remembered, UploadKey
from chunkyd.upload.midstate import begin
from chunkyd.upload.source import Source
from chunkyd.upload.transport import Client, Opened, fresh_key

KEPT_BYTES = 8 << 20  # how often the hash is put down: it costs a commit, and a crash the reading of as much


class Assignment(msgspec.Struct, frozen=True):
    """What a run carries over: one version of one file.

    `version`: what stands for the hash in a session that begins, or began, without it; `file_hash` may be None then,
    and is taken while the file is sent, from `hash_part` on.
    """

    key: UploadKey
    source: Source
    file_hash: str | None
    rules: Rules
    version: str | None = None
    hash_part: str | None = None

    @property
    def named(self) -> str:
        """What the first session's requests carry."""
        return self.version or self.file_hash or ""


class Picture(msgspec.Struct, frozen=True):
    """How a run stands."""

    phase: str
    bytes_done: int
    bytes_sent: int
    detail: str


class Run:
    """One session's worth of work: from opening or finding it to `complete`."""

    def __init__(
        self,
        assignment: Assignment,
        client: Client,
        memory: Memory,
        control: Control,
        limiter: Limiter | None,
        clock: Clock,
        report: Callable[[Picture], None],
        session_id: str | None,
    ) -> None:
        self._assignment = assignment
        self._client = client
        self._memory = memory
        self._control = control
        self._limiter = limiter
        self._clock = clock
        self._report = report
        self._switch = control.fresh_switch()
        self._guard = threading.Lock()
        self._under_way: dict[Range, int] = {}
        self._sessions: dict[int, str] = {1: session_id} if session_id is not None else {}
        self._machine = Machine(
            assignment.source.size,
            assignment.rules,
            random.random,
            resuming=session_id is not None,
            late=assignment.version is not None,
            file_hash=assignment.file_hash,
        )
        self._frontier = Frontier(assignment.source.size)
        self._fresh_keys: dict[int, str] = {}  # of sessions whose own keys were used up
        self.file_hash = assignment.file_hash
        self.bytes_sent = 0
        self.found_bytes: int | None = None  # what the server had when it first said so
        self.instant = False

    @property
    def session_id(self) -> str:
        """The session that counted in the end."""
        return self._sessions[max(self._sessions)]

    @property
    def has_session(self) -> bool:
        """Whether there is one."""
        return bool(self._sessions)

    @property
    def named(self) -> str:
        """What its requests carry."""
        return self._named(max(self._sessions))

    def _named(self, number: int) -> str:
        """The first session of a late upload has no hash, and what replaces it has."""
        return self._assignment.named if number == 1 else self.file_hash or ""

    def run(self) -> None:
        """Work until the server says complete; raises why it cannot."""
        source = self._assignment.source
        crew: Crew[Request, Event] = Crew(self._perform, source.share, source.close)
        try:
            while self._machine.phase is not Phase.COMPLETE:
                self._step(crew)
        finally:
            self._switch.pull()
            self._frontier.stop()
            crew.close()

    def _step(self, crew: Crew[Request, Event]) -> None:
        self._control.check()
        self._assignment.source.keep_lease()
        if self._machine.failure is not None:
            raise self._machine.failure
        now = self._clock.monotonic()
        if not self._control.paused:
            for request in self._machine.requests(now):
                crew.submit(request)
        self._report(self._picture(now))
        wake = self._machine.wake_at()
        if wake is None or wake <= now:  # what was due has been asked for: only an answer, or resuming, helps now
            wake = now + LOOK_SECONDS
        event = crew.outcome(min(LOOK_SECONDS, wake - now))
        if event is not None:
            self._machine.handle(event, self._clock.monotonic())
            self._note_found(event)
            self._let_hash_go_on(event)

    def _note_found(self, event: Event) -> None:
        if isinstance(event, Known) and self.found_bytes is None:
            self.instant = isinstance(event.request, Initiate) and self._machine.phase is not Phase.SENDING
            self.found_bytes = 0 if isinstance(event.request, Initiate) else self._machine.stored_bytes

    def _let_hash_go_on(self, event: Event) -> None:
        if isinstance(event, Known):
            self._frontier.begin_all_but(event.missing)
        if self._machine.stored_bytes == self._machine.total or self._machine.session > 1:
            self._frontier.begin_all_but(())

    def _picture(self, now: float) -> Picture:
        with self._guard:
            under_way = sum(self._under_way.values())
            sent = self.bytes_sent
        if self._control.paused:
            phase = "paused"
        elif self._machine.waiting(now):
            phase = "waiting"
        else:
            phase = "verifying" if self._machine.phase is Phase.VERIFYING else "sending"
        done = min(self._machine.total, self._machine.stored_bytes + under_way)
        detail = self._machine.error.what if self._machine.error is not None and phase == "waiting" else ""
        return Picture(phase, done, sent, detail)

    # In the crew's threads

    def _perform(self, request: Request) -> Event:
        try:
            if isinstance(request, Send):
                return self._send(request)
            if isinstance(request, TakeHash):
                return self._take_hash(request)
            if isinstance(request, Declare):
                return self._declare(request)
            return self._initiate(request) if isinstance(request, Initiate) else self._ask(request)
        except Problem as found:
            return Refused(request, found)
        except NetworkError as error:
            return Failed(request, error)

    def _initiate(self, request: Initiate) -> Event:
        assignment, source = self._assignment, self._assignment.source
        source.check()
        self._drop_session(request.session - 1)
        late = assignment.version is not None and request.session == 1
        named = self._named(request.session)
        wanted = messages.Initiate(
            "" if late else named,
            source.size,
            assignment.key.path,
            source.fingerprint.mtime_ns,
            source.mode,
            *self._memory.origin(source.fingerprint),
            file_version=named if late else None,
        )
        reached("upload.session.opening")
        opened = self._open(wanted, request.session)
        reached("upload.session.opened")
        session = Remembered(opened.session_id, named, source.identity(), source.size)
        counting = self._remembered(session)
        reached("upload.session.remembered")
        self._sessions[request.session] = counting
        if counting != opened.session_id:  # another process was faster: share its session
            self._end(opened.session_id, named)
            return self._ask(request)
        return Known(request, opened.status, opened.missing, opened.max_chunk_bytes, opened.chunk_bytes)

    def _open(self, wanted: messages.Initiate, number: int) -> Opened:
        """Where that is too late, the key belongs to an earlier upload of this version, or our order is older than the
        server's (our records were restored from a copy). This one is meant, and asks once more without either: first
        with a second key that a crash finds again, then with one of its own.
        """
        own = _idempotency_key(self._assignment, self._named(number), number)
        again = hashlib.sha256(own.encode("ascii")).hexdigest()[:32]
        free = replace(wanted, client=None, order=None)
        for request, key in ((wanted, own), (free, again)):
            try:
                return self._client.initiate(request, key, self._switch)
            except Problem as found:
                if found.name != "session-expired":
                    raise
        return self._client.initiate(free, self._fresh_keys.setdefault(number, fresh_key()), self._switch)

    def _remembered(self, session: Remembered) -> str:
        """The session that counts. One that cannot be remembered is not left behind at the server."""
        try:
            return self._memory.remember(self._assignment.key, session).session_id
        except ChunkyError:
            with contextlib.suppress(ChunkyError):
                self._client.end(session.session_id, session.file_hash, self._switch)
            raise

    def _drop_session(self, number: int) -> None:
        """The server does not know this session any more."""
        session_id = self._sessions.get(number)
        if session_id is not None:
            self._memory.forget(self._assignment.key, session_id)
            reached("upload.session.lost")
            self._memory.ended(self._assignment.key.url, session_id)

    def _end(self, session_id: str, named: str) -> None:
        self._client.end(session_id, named, self._switch)
        self._memory.ended(self._assignment.key.url, session_id)

    def _ask(self, request: AskStatus | Request) -> Event:
        assignment = self._assignment
        session_id = self._sessions[request.session]
        standing = self._client.status(session_id, self._named(request.session), assignment.source.size, self._switch)
        return Known(request, standing.status, standing.missing)

    def _take_hash(self, request: TakeHash) -> Event:
        source = self._assignment.source
        running = begin(source.size, self._assignment.hash_part)
        kept = running.position

        def proceed(done: int) -> None:
            nonlocal kept
            self._frontier.follow(done, self._control.check)
            if done - kept >= KEPT_BYTES:
                kept = done
                self._keep_part(running.part())

        file_hash = source.sha256(proceed, running)
        self._memory.remember_hash(self._assignment.key, source.identity(), file_hash)
        reached("upload.hash.followed")
        self.file_hash = file_hash
        return Hashed(request, file_hash)

    def _keep_part(self, part: str | None) -> None:
        """Of a version whose times tell of every change after this: whoever goes on need not read these bytes again."""
        session_id = self._sessions.get(1)
        if part is not None and session_id is not None and self._assignment.source.has_settled(self._clock.wall()):
            self._memory.remember_part(self._assignment.key, session_id, part)
            reached("upload.hash.kept")

    def _declare(self, request: Declare) -> Event:
        self._assignment.source.check()
        session_id = self._sessions[request.session]
        status = self._client.declare(session_id, self._named(request.session), request.file_hash, self._switch)
        reached("upload.hash.declared")
        return Declared(request, status)

    def _send(self, request: Send) -> Event:
        began = self._clock.monotonic()
        source, chunk = self._assignment.source, request.chunk
        digest = source.crc32c(chunk, self._control.check)
        source.check()
        self._frontier.begin([chunk])
        reached("upload.chunk.sending")
        body = Body(source, chunk, self._limiter, self._control.check, lambda count: self._count(chunk, count))
        try:
            status = self._client.chunk(
                self._sessions[request.session],
                self._named(request.session),
                chunk,
                source.size,
                digest,
                body,
                self._switch,
            )
        finally:
            with self._guard:
                self._under_way.pop(chunk, None)
        reached("upload.chunk.stored")
        return Stored(request, status, self._clock.monotonic() - began)

    def _count(self, chunk: Range, count: int) -> None:
        with self._guard:
            self.bytes_sent += count
            self._under_way[chunk] = self._under_way.get(chunk, 0) + count


def _idempotency_key(assignment: Assignment, named: str, session: int) -> str:
    """The same in every run for the same version of the same file.

    After a crash between the server's answer and its being remembered, the same session is given again: with a new key
    it would be left behind, and hold the space of a whole file until it expires.
    """
    key, found = assignment.key, assignment.source.identity()
    version = (found.inode, found.size, found.mtime_ns, found.ctime_ns)
    what = (key.url, key.source, key.path, named, version, session)
    return hashlib.sha256(repr(what).encode("ascii", "backslashreplace")).hexdigest()[:32]
