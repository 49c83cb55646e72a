"""From a verified partial to a published file (rules 6, 9, 10). Everything here blocks: callers use a thread.

Publications of one user are made one after the other by the caller, so that "the later initiate wins" is decided
once and stays true. The catalog's record, not the caller's memory, says how far a publication had come; every step
may be repeated after a crash or a full disk:

    prepare (sync bytes, attributes) → PUBLISHING with the inode → rename, sync folders → COMPLETE with the file
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from chunkyd.catalog.base import ACTIVE_STATES, Catalog, FileRecord, SessionRecord, SessionState, Wish
from chunkyd.checkpoints import reached
from chunkyd.clock import Clock
from chunkyd.errors import ChunkyError
from chunkyd.files import Fingerprint
from chunkyd.names import numbered_name
from chunkyd.protocol.paths import Target
from chunkyd.storage.base import Attributes, FileInTheWay, PathConflict, Publication, Reader, Storage
from chunkyd.storage.names import free_number

READ_BYTES = 1 << 20


class Stopped(Exception):
    """The server stops: a long reading was given up, and nothing has changed by it."""


class SessionLost(Exception):
    """The session was ended or expired meanwhile; nothing was published."""


class NoLongerKept(Exception):
    """The version that was to be renewed does not stand at its path any more: its bytes have to come."""


class Publisher:
    """Publishes, and knows which versions a user already has."""

    def __init__(self, storage: Storage, catalog: Catalog, clock: Clock, *, keep_old: bool) -> None:
        self._storage = storage
        self._catalog = catalog
        self._clock = clock
        self._keep_old = keep_old
        self._stopping = threading.Event()
        self._placed: dict[str, Fingerprint] = {}  # published in this run and not yet recorded: it needs no reading

    def stop(self) -> None:
        """Give up copying and reading; renaming and recording go on to their end."""
        self._stopping.set()

    def publish(self, session_id: str) -> None:
        """Publish a partial whose whole hash was checked; PathConflict leaves the session RECEIVING, all stored."""
        record = self._catalog.session(session_id)
        if record is None or record.state not in ACTIVE_STATES:
            raise SessionLost(session_id)
        target = Target(record.user, record.target)
        if record.state is SessionState.PUBLISHING and self._storage.inode(session_id) is None:
            self._finish_renamed(record, target)
            return
        if self._catalog.newest_sequence_in_the_way(target) > record.sequence:
            self._check_folders(record, target)
            self._keep_overtaken(record, target)
            self._complete(record, None)
            reached("server.publish.overtaken")
            self._storage.discard(session_id)
            return
        prepared = self._storage.prepare(session_id, Attributes(record.modified_ns, record.mode))
        reached("server.publish.prepared")
        if not self._catalog.move(session_id, ACTIVE_STATES, SessionState.PUBLISHING, inode=prepared.inode):
            raise SessionLost(session_id)
        reached("server.publish.recorded")
        keep_old = self._keep_old and not self._has_version(target, record.file_hash, record.total_bytes)
        try:
            fingerprint = self._storage.publish(session_id, target, keep_old=keep_old)
        except PathConflict:
            self._catalog.move(session_id, {SessionState.PUBLISHING}, SessionState.RECEIVING)
            reached("server.publish.taken-back")
            raise
        reached("server.publish.placed")
        self._placed[session_id] = fingerprint
        self._complete(record, self._file(record, fingerprint))
        reached("server.complete.recorded")

    def _check_folders(self, record: SessionRecord, target: Target) -> None:
        """What is overtaken by a file in place of one of its folders has no place, not even beside it: FileInTheWay."""
        path, slash, _ = target.path.rpartition(b"/")
        while slash:
            if self._storage.published(Target(target.user, path)) is not None:
                self._catalog.move(record.session_id, {SessionState.PUBLISHING}, SessionState.RECEIVING)
                raise FileInTheWay(path)
            path, slash, _ = path.rpartition(b"/")

    def _keep_overtaken(self, record: SessionRecord, target: Target) -> None:
        """A later initiate's version stands there already, or below it, or has been there. Where old ones are kept,
        this is one: its client is told that it is complete, and may delete its own.

        Nobody's record names it. A crash in between does it again, or finds that it was done: the partial is gone.
        """
        if not self._keep_old or self._has_version(target, record.file_hash, record.total_bytes):
            return
        folder, slash, name = target.path.rpartition(b"/")

        def beside(number: int) -> Target:
            return Target(target.user, folder + slash + numbered_name(name, number))

        prepared = self._storage.prepare(record.session_id, Attributes(record.modified_ns, record.mode))
        if not self._catalog.move(record.session_id, ACTIVE_STATES, SessionState.PUBLISHING, inode=prepared.inode):
            raise SessionLost(record.session_id)
        reached("server.overtaken.recorded")
        free = free_number(lambda number: self._storage.published(beside(number)) is not None)
        self._storage.publish(record.session_id, beside(free), keep_old=True)
        reached("server.overtaken.kept")

    def _finish_renamed(self, record: SessionRecord, target: Target) -> None:
        """A crash came between rename and COMPLETE. Where another file stands there by now, it is the newer one.

        Where none does, or still the one before, and none later is recorded, nobody can say that this one ever arrived:
        FileNotFoundError. A renewal, which has no inode, had nothing to rename: it is forgotten.
        """
        if record.inode is None:
            self._catalog.end(record.session_id)
            raise SessionLost(record.session_id)
        found = None
        if self._catalog.newest_sequence_in_the_way(target) < record.sequence:
            found = self._arrived(record, target, record.inode)
            if found is None and self._is_as_before(target):
                raise FileNotFoundError(record.session_id)
        else:
            self._storage.finish(target, record.inode)  # it is overtaken; where it was kept beside, that is durable now
        self._complete(record, self._file(record, found) if found is not None else None)
        reached("server.complete.caught-up")

    def _arrived(self, record: SessionRecord, target: Target, inode: int) -> Fingerprint | None:
        """The file at the target, durable, if it is this version.

        The inode alone tells nothing: its number is given anew once it is free, and its bytes may have been edited.
        """
        found = self._storage.finish(target, inode)
        reader = self._storage.open_published(target) if found is not None else None
        if found is None or reader is None:
            return None
        with contextlib.closing(reader):
            placed = self._placed.get(record.session_id)
            right = placed is not None and found.same_version(placed)
            right = right or self._holds(reader, record.file_hash, record.total_bytes)
            return found if right and reader.fingerprint().same_version(found) else None

    def _is_as_before(self, target: Target) -> bool:
        """Whether nothing stands there, or what was recorded there before."""
        file = self._catalog.file(target)
        return self._storage.published(target) is None or (file is not None and self._is_as_recorded(file))

    def _complete(self, record: SessionRecord, file: FileRecord | None) -> None:
        """Of a session that no client can ask for, nothing is left."""
        if not record.unnamed:
            self._catalog.complete(record.session_id, file)
        elif file is not None:
            self._catalog.complete_all([(record.session_id, file)])
        else:
            self._catalog.end(record.session_id)
        self._placed.pop(record.session_id, None)

    def kept_versions(self, record: SessionRecord) -> list[FileRecord]:
        """Where the user has this version, by the records, and the file is still as it was when it was checked.

        First of all at the very path that is asked for.
        """
        versions = self._catalog.versions(record.user, record.file_hash, record.total_bytes)
        here = self._catalog.file(Target(record.user, record.target))
        if here is not None and (here.file_hash, here.size) == (record.file_hash, record.total_bytes):
            versions.insert(0, here)
        return [file for file in versions if self._is_as_recorded(file)]

    def known_hashes(self, user: str, hashes: Sequence[str]) -> set[str]:
        """Those of which the user may have a version: of any other `kept_versions` finds none."""
        return self._catalog.known_hashes(user, hashes)

    def renew(self, record: SessionRecord) -> bool:
        """The version stands at the very path already: only its attributes change (client's rule 8).

        False where it does not any more; then nothing has changed.
        """
        fingerprint = self._renewed(record)
        return fingerprint is not None and self._catalog.complete(record.session_id, self._file(record, fingerprint))

    def _renewed(self, record: SessionRecord) -> Fingerprint | None:
        target = Target(record.user, record.target)
        file = self._catalog.file(target)
        if file is None or file.sequence > record.sequence or not self._is_as_recorded(file):
            return None
        if (file.file_hash, file.size) != (record.file_hash, record.total_bytes):
            return None
        fingerprint = self._storage.set_attributes(target, Attributes(record.modified_ns, record.mode))
        reached("server.renewal.set")
        return fingerprint

    def publish_all(
        self,
        new: Sequence[SessionRecord],
        renewed: Sequence[SessionRecord],
        wishes: Sequence[Wish],
        key: bytes | None,
        until: float,
    ) -> list[tuple[SessionRecord, Exception | None]]:
        """The same steps for many, each made for all of them before the next; no two may have one path.

        The partials of the `new` ones are prepared, and their record names the inode; the `renewed` ones stand at their
        path already, and a crash leaves nothing of them to be finished. All are PUBLISHING, `unnamed`, and without a
        sequence yet. Given back: the recorded session and what has failed. Of a session without failure, with
        PathConflict, or with NoLongerKept, nothing is left; with any other it stays PUBLISHING, to be published as
        after a crash.

        Their `wishes` count, and their `key` is used up, in the commit that gives them their sequence; they are
        remembered `until` then. Raises TooLate, or what the catalog raises there, and then nothing is recorded; never
        anything later.
        """
        added = self._catalog.add_sessions([*new, *renewed], wishes=wishes, key=key, until=until)
        reached("server.batch.recorded")
        try:
            return self._publish_added(added[: len(new)], added[len(new) :])
        except Exception as error:  # noqa: BLE001 — they are on record now: whatever it is, it is told of each of them
            return [(record, error) for record in added]

    def _publish_added(
        self, new: Sequence[SessionRecord], renewed: Sequence[SessionRecord]
    ) -> list[tuple[SessionRecord, Exception | None]]:
        added = [*new, *renewed]
        outcomes = [
            *self._storage.publish_all([self._publication(record) for record in new]),
            *map(self._renew_one, renewed),
        ]
        together = list(zip(added, outcomes, strict=True))
        published = [(record, found) for record, found in together if isinstance(found, Fingerprint)]
        self._placed.update((record.session_id, found) for record, found in published if record.inode is not None)
        reached("server.batch.placed")
        unrecorded: ChunkyError | None = None
        try:
            self._catalog.complete_all([(record.session_id, self._file(record, found)) for record, found in published])
        except ChunkyError as error:
            unrecorded = error
        else:
            reached("server.batch.completed")
            for record, _ in published:
                self._placed.pop(record.session_id, None)
        return [
            (record, self._take_back(record, found) if isinstance(found, Exception) else unrecorded)
            for record, found in together
        ]

    def _take_back(self, record: SessionRecord, failure: Exception) -> Exception:
        """Leave nothing of what cannot be published, whenever it is tried; of anything else, all."""
        if isinstance(failure, PathConflict | NoLongerKept):
            try:
                self._catalog.end(record.session_id)
                self._storage.discard(record.session_id)
            except (ChunkyError, OSError) as error:
                return error
        return failure

    def _publication(self, record: SessionRecord) -> Publication:
        target = Target(record.user, record.target)
        keep_old = self._keep_old and not self._has_version(target, record.file_hash, record.total_bytes)
        return Publication(record.session_id, target, keep_old)

    def _renew_one(self, record: SessionRecord) -> Fingerprint | Exception:
        try:
            return self._renewed(record) or NoLongerKept(record.session_id)
        except (ChunkyError, OSError) as error:
            return error

    def read_kept(self, file: FileRecord) -> bytes | None:
        """The bytes of a small kept version; None where they are not what they were."""
        reader = self._storage.open_published(Target(file.user, file.path))
        if reader is None:
            return None
        with contextlib.closing(reader):
            content = reader.read(0, file.size + 1)
        return content if hashlib.sha256(content).hexdigest() == file.file_hash else None

    def copy(self, record: SessionRecord) -> bool:
        """Fill a COPYING session's partial from the kept version; whether the bytes are those of the hash."""
        source = Target(record.user, record.copy_of or b"")
        reader = self._storage.open_published(source)
        if reader is None:
            return False
        try:
            partial = self._storage.open(record.session_id)
        except FileNotFoundError:
            reader.close()
            return False
        try:
            if not self._storage.clone(source, record.session_id):
                for offset in range(0, record.total_bytes, READ_BYTES):
                    self._go_on()
                    stop = min(offset + READ_BYTES, record.total_bytes)
                    partial.write(offset, reader.read(offset, stop - offset))
                    partial.flush_soon(offset, stop)  # or the sync below would hold up a stop
            reached("server.copy.made")
            partial.sync()  # a failed one is told once: here the copy is made again, at publishing it would be lost
            reached("server.copy.synced")
            return hash_whole(partial.read, record.total_bytes, self._go_on) == record.file_hash
        finally:
            partial.close()
            reader.close()

    def abandon_copy(self, record: SessionRecord) -> bool:
        """The kept bytes are others by now: forget that record, and let the session be an ordinary upload.

        Another version that has taken their place meanwhile keeps its record. The caller holds off publications.
        """
        source = Target(record.user, record.copy_of or b"")
        kept = self._catalog.file(source)
        if kept is not None and (kept.file_hash, kept.size) == (record.file_hash, record.total_bytes):
            self._catalog.remove_file(source)
        reached("server.copy.abandoning")
        self._storage.discard(record.session_id)
        self._storage.create(record.session_id, record.total_bytes)
        moved = self._catalog.move(record.session_id, {SessionState.COPYING}, SessionState.RECEIVING)
        reached("server.copy.abandoned")
        return moved

    def _go_on(self) -> None:
        if self._stopping.is_set():
            raise Stopped

    def _is_as_recorded(self, file: FileRecord) -> bool:
        found = self._storage.published(Target(file.user, file.path))
        return found is not None and found.same_version(file.fingerprint)

    def _has_version(self, target: Target, file_hash: str, size: int) -> bool:
        """Whether the target holds these bytes already; read where the records do not know."""
        file = self._catalog.file(target)
        if file is not None and self._is_as_recorded(file):
            return (file.file_hash, file.size) == (file_hash, size)
        reader = self._storage.open_published(target)
        if reader is None:
            return False
        with contextlib.closing(reader):
            return self._holds(reader, file_hash, size)

    def _holds(self, reader: Reader, file_hash: str, size: int) -> bool:
        """Whether an open file is this version, byte for byte."""
        return reader.fingerprint().size == size and hash_whole(reader.read, size, self._go_on) == file_hash

    def _file(self, record: SessionRecord, fingerprint: Fingerprint) -> FileRecord:
        return FileRecord(
            user=record.user,
            path=record.target,
            file_hash=record.file_hash,
            size=record.total_bytes,
            fingerprint=fingerprint,
            sequence=record.sequence,
            published_at=self._clock.wall(),
        )


class _Read(Protocol):
    def __call__(self, offset: int, length: int, /) -> bytes: ...


def hash_whole(read: _Read, size: int, go_on: Callable[[], None] = lambda: None) -> str:
    """The SHA-256 of `size` bytes; "" where there are more of them. `go_on` is asked before each reading."""
    digest = hashlib.sha256()
    for offset in range(0, size, READ_BYTES):
        go_on()
        digest.update(read(offset, min(READ_BYTES, size - offset)))
    return "" if read(size, 1) else digest.hexdigest()
