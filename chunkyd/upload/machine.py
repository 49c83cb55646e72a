"""What one upload does next: pure, no I/O, no clock. Answers go in as events; requests to make come out.

Rules:
- At most one initiate or status request is under way, and up to `parallel_chunks` chunks beside it.
- Anything newly stored resets the attempts (`patience`). "Newly" is measured against the lowest that was ever missing,
  so a server that takes back what it said it had stored does not keep a client busy for ever.
- A chunk in progress elsewhere is left alone for a while; the others go on, from the other end of the file, so that two
  clients of one session meet once and not at every chunk, and in smaller pieces, because each refusal costs its bytes.
- An unknown or expired session is replaced once; what belonged to the old one is recognised by its session number.
- A late upload has its hash taken beside the chunks, and declares it to the server; whatever the server says before, it
  is complete only when the server has said so of that hash. The session that replaces a lost one begins with the hash:
  where another client has ended the lost one complete, no byte travels again.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

import msgspec

from chunkyd.errors import ChunkyError, NetworkError, Problem
from chunkyd.protocol.messages import MIN_CHUNK_BYTES, Status
from chunkyd.protocol.ranges import Range, RangeSet
from chunkyd.upload.patience import Patience
from chunkyd.upload.sizing import ChunkSize

_POLL_FIRST = 0.05  # seconds between two looks at a file that is being verified, growing …
_POLL_MOST = 2.0  # … to this
_BUSY_SECONDS = 1.0  # how long a chunk in progress elsewhere is left alone where the server names no time, …
_BUSY_MOST = 5.0  # … growing to this while nothing is stored: a dead client's chunk is held for half a minute
_TAKEN_BACK = "the server lists as missing what it had said was stored"
_NEVER_DONE = "the server lists nothing as missing, and says that the file is incomplete"


class Rules(msgspec.Struct, frozen=True):
    """How this upload is to behave; seconds and bytes."""

    attempts: int = 5
    base: float = 1.0
    max_wait: float = 300.0
    parallel_chunks: int = 4
    chunk_size: int | None = None
    wait_when_full: bool = True  # and while all is stored, but cannot be published yet


class Request(msgspec.Struct, frozen=True):
    """A request to make: of which session, counted from 1, and in which round."""

    session: int
    round: int


class Initiate(Request, frozen=True):
    """Open a session; the same session number means the same idempotency key."""


class AskStatus(Request, frozen=True):
    """Ask what is missing."""


class Send(Request, frozen=True):
    """Send these bytes; half-open."""

    chunk: Range


class TakeHash(Request, frozen=True):
    """Hash the file while it is sent; it takes as long as that. Of the file, not of a session."""


class Declare(Request, frozen=True):
    """Tell the server the file's hash."""

    file_hash: str


class Known(msgspec.Struct, frozen=True):
    """The answer to Initiate or AskStatus. `missing` is half-open; `most`: maxChunkBytes, `advice`: chunkBytes."""

    request: Request
    status: Status
    missing: tuple[Range, ...]
    most: int | None = None
    advice: int | None = None


class Stored(msgspec.Struct, frozen=True):
    """The answer to Send: it is stored; how many seconds it took."""

    request: Send
    status: Status
    seconds: float


class Hashed(msgspec.Struct, frozen=True):
    """The answer to TakeHash."""

    request: TakeHash
    file_hash: str


class Declared(msgspec.Struct, frozen=True):
    """The answer to Declare: it is recorded."""

    request: Declare
    status: Status


class Refused(msgspec.Struct, frozen=True):
    """The server answered with a problem."""

    request: Request
    problem: Problem


class Failed(msgspec.Struct, frozen=True):
    """No answer, or none that the protocol promises."""

    request: Request
    error: NetworkError


Event = Known | Stored | Hashed | Declared | Refused | Failed


class Phase(Enum):
    """Where the upload is."""

    NEW = auto()
    SENDING = auto()
    VERIFYING = auto()
    COMPLETE = auto()


class Machine:
    """One upload of one file version. `random` gives floats in [0, 1) for the jitter.

    `late`: the first session knows no hash before it is declared; `file_hash`: where it was taken before.
    """

    def __init__(
        self,
        total: int,
        rules: Rules,
        random: Callable[[], float],
        *,
        resuming: bool,
        late: bool = False,
        file_hash: str | None = None,
    ) -> None:
        self.total = total
        self.session = 1
        self.phase = Phase.SENDING if resuming else Phase.NEW
        self.error: ChunkyError | None = None  # the last that cost or waited; for people
        self._rules = rules
        self._patience = Patience(rules.attempts, rules.base, rules.max_wait, random)
        self._size = ChunkSize(rules.chunk_size)
        self._file_hash = file_hash
        self._hashing = False
        self._declared = not late
        self._late = late
        self._missing = RangeSet([(0, total)])
        self._lowest = total + 1  # the fewest bytes that were ever missing
        self._ask = resuming
        self._asking = False
        self._sending: set[Range] = set()
        self._stored_since_ask: list[Range] = []
        self._busy: dict[Range, float] = {}
        self._contested = 0  # chunks found in progress elsewhere since anything was stored
        self._backwards = False
        self._shared = False  # another client sends chunks of this session too
        self._poll_at = 0.0
        self._poll_delay = _POLL_FIRST
        self._renewed = False
        self._failure: ChunkyError | None = None
        self._giving_up: ChunkyError | None = None

    # What the driver asks

    @property
    def failure(self) -> ChunkyError | None:
        """Why the upload cannot go on; what was given up for lack of progress waits for the requests under way."""
        if self._failure is None and not self._sending and not self._asking:
            return self._giving_up or self._patience.used_up
        return self._failure

    @property
    def stored_bytes(self) -> int:
        """How much the server has, as far as is known."""
        return self.total - self._missing.total

    @property
    def failures(self) -> int:
        """Attempts in a row without progress."""
        return self._patience.failures

    def wake_at(self) -> float | None:
        """When to ask for requests again though nothing happened; None where an answer must come first."""
        moments = list(self._busy.values())
        if self._patience.not_before:
            moments.append(self._patience.not_before)
        if self.phase is Phase.VERIFYING and self._declared and not self._asking:
            moments.append(self._poll_at)
        return min(moments, default=None)

    def waiting(self, now: float) -> bool:
        """Whether it holds back because of a failure or because it was asked to."""
        return now < self._patience.not_before

    def requests(self, now: float) -> list[Request]:
        """The requests to make now; each must be answered by one event."""
        if self._failure or self._giving_up or self._patience.used_up or self.phase is Phase.COMPLETE:
            return []
        if self._late and self._file_hash is None and not self._hashing:
            self._hashing = True
            return [TakeHash(self.session, self._patience.round), *self.requests(now)]
        if not self._patience.over(now):
            return []
        self._look_at_busy(now)
        if self._asking:
            return []
        if self.phase is Phase.NEW and self._renewed and self._hashing and self._file_hash is None:
            return []
        if self.phase is Phase.NEW:
            self._asking = True
            return [Initiate(self.session, self._patience.round)]
        if self._ask or (self.phase is Phase.VERIFYING and self._declared and now >= self._poll_at):
            self._asking, self._ask = True, False
            self._stored_since_ask.clear()
            return [AskStatus(self.session, self._patience.round)]
        if self._file_hash is not None and not self._declared and not self._missing:
            self._asking = True
            return [Declare(self.session, self._patience.round, self._file_hash)]
        return list(self._sends()) if self.phase is Phase.SENDING else []

    # What the driver tells

    def handle(self, event: Event, now: float) -> None:
        """Take in the answer to a request."""
        if isinstance(event, Hashed):
            self._file_hash = event.file_hash
            return
        request = event.request
        if isinstance(request, Send):
            self._sending.discard(request.chunk)
        else:
            self._asking = False
        if request.session != self.session:
            return
        if isinstance(event, Known):
            self._known(event, now)
        elif isinstance(event, Stored):
            self._stored(event, now)
        elif isinstance(event, Declared):
            self._declared = True
            self._progress()
            self._told(event.status, now)
        elif isinstance(event, Refused):
            self._refused(event, now)
        else:
            self._ask_again(request)
            if isinstance(request, Send):
                self._size.cut(request.chunk[1] - request.chunk[0])
            self._failed(request, event.error, event.error.retry_after, now)

    def _known(self, event: Known, now: float) -> None:
        self._size.learn(event.most, event.advice)
        if event.status != "incomplete":
            self._finishing(event.status, now)
            return
        self.phase = Phase.SENDING
        believed = self._missing.total
        self._missing = RangeSet(event.missing)
        for start, stop in self._stored_since_ask:
            self._missing.remove(start, stop)
        stuck = not self._missing and self._declared  # nothing to send, and yet incomplete: only another answer helps
        self._ask |= stuck
        if self._missing.total < self._lowest:
            self._progress()
        elif self._missing.total > believed:
            self._failed(event.request, NetworkError(_TAKEN_BACK), None, now)
        elif stuck:
            self._failed(event.request, NetworkError(_NEVER_DONE), None, now)

    def _stored(self, event: Stored, now: float) -> None:
        start, stop = event.request.chunk
        self._missing.remove(start, stop)
        self._stored_since_ask.append((start, stop))
        self._size.took(stop - start, event.seconds)
        self._contested = 0
        if self._missing.total < self._lowest:
            self._progress()
        self._told(event.status, now)

    def _told(self, status: Status, now: float) -> None:
        """How the session stands, in an answer that does not say what is missing."""
        if status != "incomplete":
            self._finishing(status, now)
        elif not self._missing:
            self._ask |= self._declared  # else it waits for us
        elif self._shared and len(self._stored_since_ask) >= self._rules.parallel_chunks:
            self._ask = True  # what another client has stored meanwhile need not be sent

    def _finishing(self, status: Status, now: float) -> None:
        self._missing = RangeSet()
        if status == "complete" and self._declared:
            self.phase = Phase.COMPLETE
            return
        if self.phase is not Phase.VERIFYING:
            self.phase, self._poll_delay = Phase.VERIFYING, _POLL_FIRST
        self._poll_at = now + self._poll_delay
        self._poll_delay = min(self._poll_delay * 1.5, _POLL_MOST)

    def _refused(self, event: Refused, now: float) -> None:
        request, found = event.request, event.problem
        self.error = found
        if found.action == "new-session" and not self._renewed:
            self._renew()
        elif found.name == "chunk-in-progress" and isinstance(request, Send):
            self._elsewhere(request.chunk, found, now)
        elif self._is_for_others(request, found):
            self._giving_up = found
        elif found.action == "wait":
            self._ask_again(request)
            self._patience.hold(request.round, found.retry_after, now)
        elif found.action == "smaller-chunks":
            self._smaller(request, found, now)
        elif found.action in ("refresh-status", "retry"):
            self._ask_again(request)
            self._failed(request, found, found.retry_after, now)
        else:
            self._failure = found

    # The rules behind them

    def _is_for_others(self, request: Request, found: Problem) -> bool:
        """Whether only the server's administrator can help, and whoever drives has other files to send meanwhile."""
        unpublished = found.action == "retry" and isinstance(request, AskStatus)
        return not self._rules.wait_when_full and (found.name == "storage-full" or unpublished)

    def _renew(self) -> None:
        """Open another session for the same version; answers for the old one are ignored from here on."""
        self._renewed = True
        self._declared = True
        self.session += 1
        self.phase = Phase.NEW
        self._missing = RangeSet([(0, self.total)])
        self._lowest = self.total + 1
        self._ask = False
        self._busy.clear()
        self._stored_since_ask.clear()

    def _smaller(self, request: Request, found: Problem, now: float) -> None:
        length = request.chunk[1] - request.chunk[0] if isinstance(request, Send) else 0
        if length <= MIN_CHUNK_BYTES:
            self._failure = found
            return
        limit = found.members.get("maxChunkBytes")
        self._size.limit(limit if isinstance(limit, int) and 0 < limit < length else length // 2)
        self._failed(request, found, found.retry_after, now, back_off=False)

    def _ask_again(self, request: Request) -> None:
        """After a failure the server is asked what it has before anything is sent again."""
        self._ask = self.phase is not Phase.NEW

    def _progress(self) -> None:
        self._lowest = self._missing.total
        self._giving_up = None
        self._patience.progress()

    def _failed(
        self, request: Request, error: ChunkyError, retry_after: float | None, now: float, *, back_off: bool = True
    ) -> None:
        if self._patience.failed(request.round, error, retry_after, now, back_off=back_off):
            self.error = error

    def _elsewhere(self, chunk: Range, found: Problem, now: float) -> None:
        self._contested += 1
        self._shared = True
        least = _BUSY_SECONDS if found.retry_after is None else found.retry_after
        self._busy[chunk] = now + max(least, min(_BUSY_MOST, 0.25 * self._contested))
        self._size.contested(chunk[1] - chunk[0])
        self._backwards = not self._backwards

    def _look_at_busy(self, now: float) -> None:
        over = [chunk for chunk, until in self._busy.items() if until <= now]
        for chunk in over:
            del self._busy[chunk]
            self._ask = self.phase is Phase.SENDING

    def _sends(self) -> list[Send]:
        sends: list[Send] = []
        while len(self._sending) < self._rules.parallel_chunks:
            chunk = self._next_chunk()
            if chunk is None:
                break
            self._sending.add(chunk)
            sends.append(Send(self.session, self._patience.round, chunk))
        return sends

    def _next_chunk(self) -> Range | None:
        taken = RangeSet([*self._sending, *self._busy])
        length = self._size.next(self._missing.total - taken.total, self._rules.parallel_chunks)
        gaps = reversed(self._missing) if self._backwards else iter(self._missing)
        for start, stop in gaps:
            free = taken.missing(start, stop)
            if free and self._backwards:
                return max(free[-1][0], free[-1][1] - length), free[-1][1]
            if free:
                return free[0][0], min(free[0][1], free[0][0] + length)
        return None
