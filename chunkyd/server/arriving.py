"""A batch's body: from the pieces a connection gives to prepared files, each judged as an initiate of its own would be.

A file is hashed and written as soon as its last byte is there, so that at the end of the body everything is synced
but names and records. Of what stays in memory there is never more than a gathering and the file at its end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from msgspec.structs import replace

from chunkyd.catalog.base import SessionRecord, SessionState, Wish
from chunkyd.checkpoints import reached
from chunkyd.errors import Problem, StorageFull
from chunkyd.protocol.batch import Entry, EntryParser, Outcome
from chunkyd.protocol.digests import Checker
from chunkyd.protocol.messages import Initiate, decode_initiate
from chunkyd.protocol.problems import problem
from chunkyd.server.ledger import storage_full
from chunkyd.server.opening import judge, new_record, wish_of
from chunkyd.server.publish import Publisher
from chunkyd.server.receive import BodyCut, check_digests
from chunkyd.settings import Limits
from chunkyd.storage.base import Attributes, NewFile, Storage
from chunkyd.turns import in_turn

TOGETHER = 64  # files open at the same moment


class BatchFile:
    """One file of a batch: until it has an outcome, its `record` is ready to be published."""

    def __init__(self) -> None:
        self.record: SessionRecord | None = None
        self.wish: Wish | None = None
        self.offered = False  # only its header came, to ask whether the bytes are needed
        self.renews = False  # the version stands at its path already, and needs no partial
        self.known = False  # the bytes are here already, under this path or another
        self.outcome: Outcome | None = None

    def refuse(self, found: Problem) -> None:
        """It does not arrive."""
        self.outcome = Outcome("refused", found)


class Arriving:
    """The sink of one body; `files` grows as they arrive."""

    def __init__(
        self,
        user: str,
        length: int,
        digests: Mapping[str, bytes],
        storage: Storage,
        publisher: Publisher,
        limits: Limits,
        now: Callable[[], float],
    ) -> None:
        self._user = user
        self._storage = storage
        self._publisher = publisher
        self._limits = limits
        self._now = now
        self._checker = Checker(digests)
        self._parser = EntryParser()
        self._paths: set[bytes] = set()
        self._new: list[tuple[BatchFile, NewFile]] = []
        self.length = length
        self.received = 0
        self.files: list[BatchFile] = []

    def wants(self) -> bool:
        """See `Sink`."""
        return True

    def write(self, piece: memoryview) -> None:
        """See `Sink`. Raises malformed-request where the body is no batch."""
        self.received += len(piece)
        with in_turn():
            self._checker.update(piece)
            self._take_in(piece)
        self._prepare()

    def _take_in(self, piece: memoryview) -> None:
        try:
            entries = list(self._parser.feed(piece))
        except ValueError as error:
            raise problem("malformed-request", f"This is no batch: {error}.") from error
        begun = [(file, entry.content) for entry in entries if (file := self._begin(entry)).outcome is None]
        hashes = [file.record.file_hash for file, _ in begun if file.record is not None]
        known = self._publisher.known_hashes(self._user, hashes)
        for file, content in begun:
            self._look_up(file, content, known)

    def finish(self) -> None:
        """The body has ended; raises a Problem where it is not what was announced."""
        if self.received != self.length:
            raise BodyCut
        check_digests(self._checker)
        try:
            self._parser.finish()
        except ValueError as error:
            raise problem("malformed-request", f"This is no batch: {error}.") from error

    def discard(self) -> None:
        """Nothing of it counts."""
        for file in self.files:
            if file.record is not None:
                self._storage.discard(file.record.session_id)

    def _begin(self, entry: Entry) -> BatchFile:
        """What can be said of it by itself."""
        file = BatchFile()
        self.files.append(file)
        try:
            self._judge(file, _initiate(entry), entry.content)
        except Problem as error:
            file.refuse(error)
        return file

    def _judge(self, file: BatchFile, request: Initiate, content: memoryview) -> None:
        judge(request, self._limits)
        file.wish = wish_of(self._user, request)
        begun = new_record(self._user, request, self._now(), self._limits)
        record = replace(begun, state=SessionState.PUBLISHING, expires_at=begun.created)
        if record.target in self._paths:
            raise problem(
                "malformed-request", "A path stands in a batch only once; send the second file in another one."
            )
        self._paths.add(record.target)
        file.offered = bool(record.total_bytes) and not content
        if not file.offered and hashlib.sha256(content).hexdigest() != record.file_hash:
            raise problem("digest-mismatch", "")
        file.record = record

    def _look_up(self, file: BatchFile, content: memoryview, known: AbstractSet[str]) -> None:
        """Where its bytes come from, if not from somewhere here."""
        record = file.record
        assert record is not None
        kept = self._publisher.kept_versions(record) if record.file_hash in known else []
        if kept and kept[0].path == record.target:
            file.renews = file.known = True
            return
        if file.offered:
            found = self._publisher.read_kept(kept[0]) if kept else None
            if found is None:
                file.record, file.outcome = None, Outcome("wanted")
                return
            content, file.known = memoryview(found), True
        self._new.append((file, NewFile(record.session_id, content, Attributes(record.modified_ns, record.mode))))

    def _prepare(self) -> None:
        """Write and sync what has arrived; afterwards nothing holds the body's memory."""
        while self._new:
            some, self._new = self._new[:TOGETHER], self._new[TOGETHER:]
            reached("server.batch.writing")
            outcomes = self._storage.prepare_all([new for _, new in some])
            reached("server.batch.prepared")
            for (file, _), outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, StorageFull):
                    file.refuse(storage_full(0, 0))
                elif isinstance(outcome, OSError):
                    raise outcome
                elif file.record is not None:
                    file.record = replace(file.record, inode=outcome.inode)


def _initiate(entry: Entry) -> Initiate:
    try:
        request = decode_initiate(entry.header)
    except ValueError as error:
        raise problem("malformed-request", f"{error}.") from error
    if request.file_version is not None:
        raise problem("malformed-request", "A file of a batch has a fileHash: all of it is there to be hashed.")
    if len(entry.content) not in (0, request.total_bytes):
        raise problem(
            "malformed-request", f"The file has {request.total_bytes} bytes, its content {len(entry.content)}."
        )
    return request
