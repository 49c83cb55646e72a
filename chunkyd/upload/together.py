"""Small files, many in one request, where the server takes that (the batch extension).

Rules: each file is opened, locked, read and hashed as a big one is, and counts as sent only if it was the same before
and after the answer. What does not come out complete is left to an upload of its own, which knows what to do about it;
so nothing here tries again. Whether the bytes are needed is asked first as long as the server mostly knows them.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import crc32c
import msgspec

from chunkyd.errors import ChunkyError, Interrupted, NotChunky, Problem, SourceError
from chunkyd.files import Fingerprint, fingerprint, lstat_below
from chunkyd.protocol.batch import EXTENSION, MAX_CONTENT_BYTES, MAX_ENTRIES, Outcome, encode_entry, entry_bytes
from chunkyd.protocol.messages import Initiate, encode_initiate
from chunkyd.turns import in_turn
from chunkyd.upload.body import Body
from chunkyd.upload.connection import Switch
from chunkyd.upload.control import LOOK_SECONDS
from chunkyd.upload.crew import Crew
from chunkyd.upload.limiter import Limiter
from chunkyd.upload.memory import Origin
from chunkyd.upload.source import Source
from chunkyd.upload.transport import Client
from chunkyd.upload.uploader import Result

MOST_FILES = min(500, MAX_ENTRIES)
MOST_BYTES = 4 << 20  # of content in one request: held in memory, and sent again where the answer does not come
_FIRST_BYTES, _LEAST_BYTES = 512 << 10, 256 << 10  # the first so few that the server begins early
_FAST, _SLOW = 1.0, 8.0  # seconds for a request


class Small(msgspec.Struct, frozen=True):
    """A small file: where it is, the path it is published under, and the version that is meant (None: any).

    `root`: a folder above `source`; no link below it is followed. `origin`: as a `Memory` has it.
    """

    source: bytes
    path: bytes
    expected: Fingerprint | None = None
    root: bytes | None = None
    origin: Callable[[Fingerprint], Origin] | None = None


class _Packed(msgspec.Struct, frozen=True):
    """A file that was read: `found` is the version, `identity` what to remember of it."""

    file: Small
    found: Fingerprint
    stable: bool
    header: bytes
    content: bytes
    file_hash: str


class _Pieces:
    """Content in memory, that lies there in pieces: to join them all would double what a request holds."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._ends = list(itertools.accumulate(map(len, pieces)))

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, start: int, length: int) -> bytes:
        first = bisect_right(self._ends, start)
        taken: list[bytes] = []
        for piece, end in zip(self._pieces[first:], self._ends[first:], strict=True):
            if length <= 0:
                break
            skipped = start - (end - len(piece))
            taken.append(piece[skipped : skipped + length])
            start += len(taken[-1])
            length -= len(taken[-1])
        return b"".join(taken)

    def crc32c(self) -> bytes:
        """Four bytes."""
        value = 0
        for piece in self._pieces:
            value = crc32c.crc32c(piece, value)
        return int(value).to_bytes(4, "big")


class Together:
    """Sends small files over one client, for any number of threads. `takes` says which, and how many at once."""

    def __init__(self, client: Client, limiter: Limiter | None = None) -> None:
        self.client = client
        self._limiter = limiter
        self._most: int | None = None  # bytes the server takes in one request; None: not asked
        self._bytes = _FIRST_BYTES
        self._offering = True
        self._asking = threading.Lock()

    @property
    def most_bytes(self) -> int:
        """Of content, that are worth one request at the moment."""
        return self._bytes

    @staticmethod
    def takes(size: int) -> bool:
        """Whether a file of this size is a small one."""
        return size <= MAX_CONTENT_BYTES

    def send(self, files: Sequence[Small], stopped: Callable[[], bool]) -> list[Result | None]:
        """Send them: a result for each, in order; None for what needs an upload of its own. Raises Interrupted."""
        results: dict[int, Result] = {}
        crew: Crew[Callable[[Switch], None], bool]
        switch = Switch()

        def perform(work: Callable[[Switch], None]) -> bool:
            work(switch)
            return True

        crew = Crew(perform, _nothing, _nothing)
        try:
            crew.submit(lambda switch: self._send(files, results, switch))
            while crew.outcome(LOOK_SECONDS) is None:
                if stopped():
                    raise Interrupted("stopped on request")
        except Interrupted:
            raise
        except ChunkyError:
            self._bytes = max(_LEAST_BYTES, self._bytes // 2)
        finally:
            switch.pull()
            crew.close()
        return [results.get(index) for index in range(len(files))]

    # In the crew's thread

    def _send(self, files: Sequence[Small], results: dict[int, Result], switch: Switch) -> None:
        """Fill in the results; raises what ended it before its time."""
        most = self._room(switch)
        if most is None:
            return
        with in_turn():
            packed = [(index, found) for index, file in enumerate(files) if (found := _read(file)) is not None]
        for some in _portions(packed, most):
            wanted = self._request(some, results, switch, offered=True) if self._offering else some
            if wanted:
                self._request(wanted, results, switch, offered=False)

    def _room(self, switch: Switch) -> int | None:
        """The bytes the server takes in one request; None where it takes no batch."""
        with self._asking:  # those who begin together ask once
            if self._most is None:
                limits = self.client.limits(switch)
                if EXTENSION in limits.extensions:
                    self._most = limits.max_chunk_bytes
            return self._most

    def _request(
        self, some: Sequence[tuple[int, _Packed]], results: dict[int, Result], switch: Switch, *, offered: bool
    ) -> list[tuple[int, _Packed]]:
        """One request, of headers alone where they are `offered`; what the server wants the bytes of."""

        def proceed() -> None:
            if switch.pulled:
                raise Interrupted("stopped on request")

        content = _Pieces(_pieces([packed for _, packed in some], offered=offered))
        body = Body(content, (0, len(content)), self._limiter, proceed, _ignore)
        began = time.monotonic()
        try:
            outcomes = self.client.batch(body, content.crc32c(), len(some), switch)
        except (NotChunky, Problem):
            self._most = None  # another server, or one with other limits by now: ask it anew
            raise
        seconds = time.monotonic() - began
        with in_turn():
            for (index, packed), outcome in zip(some, outcomes, strict=True):
                if outcome.result == "complete" and _is_unchanged(packed):
                    results[index] = _result(packed, outcome, 0 if offered else len(packed.content))
        known = sum(outcome.known for outcome in outcomes)
        self._offering = 2 * known >= len(outcomes)
        if self._offering or not offered:
            self._took(sum(len(packed.content) for _, packed in some), seconds)
        return [each for each, outcome in zip(some, outcomes, strict=True) if outcome.result == "wanted"]

    def _took(self, length: int, seconds: float) -> None:
        if seconds < _FAST and length > self._bytes // 2:
            self._bytes = min(MOST_BYTES, self._bytes * 2)
        elif seconds > _SLOW:
            self._bytes = max(_LEAST_BYTES, self._bytes // 2)


def _read(file: Small) -> _Packed | None:
    """The file, whole; None where it cannot be had now, or is not the version that is meant."""
    try:
        source = Source(file.source, file.root)
    except SourceError:
        return None
    try:
        identity = source.identity()
        stable = identity.inode != 0
        if file.expected is not None and not identity.same_version(file.expected, stable_inodes=stable):
            return None
        if not Together.takes(source.size):
            return None
        content = source.read(0, source.size)
        source.check()
    except SourceError:
        return None
    finally:
        source.close()
    file_hash = hashlib.sha256(content).hexdigest()
    origin = file.origin(source.fingerprint) if file.origin is not None else ()
    wanted = Initiate(file_hash, len(content), file.path, source.fingerprint.mtime_ns, source.mode, *origin)
    if len(content) != source.size:
        return None
    return _Packed(file, source.fingerprint, stable, encode_initiate(wanted), content, file_hash)


def _is_unchanged(packed: _Packed) -> bool:
    """Whether the path still names the version that was read."""
    try:
        root, source = packed.file.root, packed.file.source
        below = source.removeprefix(root).lstrip(b"/") if root is not None else b""
        now = fingerprint(os.lstat(source) if root is None else lstat_below(root, below))
    except OSError:
        return False
    return now.same_version(packed.found, stable_inodes=packed.stable)


def _portions(packed: Sequence[tuple[int, _Packed]], most: int) -> Iterator[list[tuple[int, _Packed]]]:
    """What fits into one request each; a file that fits into none is left out."""
    some: list[tuple[int, _Packed]] = []
    length = 0
    for index, each in packed:
        size = entry_bytes(each.header, len(each.content))
        if size > most:
            continue
        if some and length + size > most:
            yield some
            some, length = [], 0
        some.append((index, each))
        length += size
    if some:
        yield some


def _pieces(packed: Sequence[_Packed], *, offered: bool) -> list[bytes]:
    """The entries, one behind the other."""
    if offered:
        return [encode_entry(each.header, 0) for each in packed]
    pairs = ((encode_entry(each.header, len(each.content)), each.content) for each in packed)
    return list(itertools.chain.from_iterable(pairs))


def _result(packed: _Packed, outcome: Outcome, bytes_sent: int) -> Result:
    return Result(
        file_hash=packed.file_hash,
        size=len(packed.content),
        bytes_sent=bytes_sent,
        resumed_from=0,
        session_id="",
        instant=outcome.known,
        fingerprint=packed.found,
    )


def _nothing() -> None:
    """No thread of the crew holds anything."""


def _ignore(count: int) -> None:
    """Nobody watches a small file on its way."""
