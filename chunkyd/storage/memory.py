"""Bytes that live in memory: for tests, for trying out, and as the shortest reading of the contract.

Nothing here survives the process. Folders exist as long as a file is below them.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence

from chunkyd.errors import StorageFull
from chunkyd.files import Fingerprint
from chunkyd.names import numbered_name
from chunkyd.protocol.paths import Target, check_path
from chunkyd.storage.base import Attributes, NewFile, PathConflict, Prepared, Publication
from chunkyd.storage.names import free_number, parents, path_names, session_name, user_name

_UNLIMITED = 1 << 62
_DEFAULT_MODE = 0o644


class _Blob:
    """One file: bytes that grow as they are written, zeros up to its size."""

    def __init__(self, inode: int, size: int) -> None:
        self.inode = inode
        self.size = size
        self.content = bytearray()
        self.mode = _DEFAULT_MODE
        self.modified_ns = time.time_ns()
        self.changed_ns = self.modified_ns
        self.lock = threading.Lock()

    def write(self, offset: int, *pieces: bytes | memoryview) -> None:
        data = b"".join(pieces)
        stop = offset + len(data)
        with self.lock:
            if stop > len(self.content):
                self.content.extend(bytes(stop - len(self.content)))
            self.content[offset:stop] = data
            self.size = max(self.size, stop)
            self.modified_ns = time.time_ns()

    def read(self, offset: int, length: int) -> bytes:
        with self.lock:
            stop = min(offset + length, self.size)
            return bytes(self.content[offset:stop]).ljust(max(0, stop - offset), b"\0")

    def set(self, attributes: Attributes) -> None:
        with self.lock:
            if attributes.modified_ns is not None:
                self.modified_ns = attributes.modified_ns
            if attributes.mode is not None:
                self.mode = attributes.mode & 0o755 | 0o400
            self.changed_ns = max(self.changed_ns + 1, time.time_ns())

    def fingerprint(self) -> Fingerprint:
        with self.lock:
            return Fingerprint(0, self.inode, self.size, self.modified_ns, self.changed_ns)


class _MemoryPartial:
    """A partial, or a published file: whoever opened it keeps it, whatever its name comes to mean."""

    def __init__(self, blob: _Blob) -> None:
        self._blob: _Blob | None = blob

    def _open(self) -> _Blob:
        if self._blob is None:
            raise ValueError("the file is closed")
        return self._blob

    def write(self, offset: int, *pieces: bytes | memoryview) -> None:
        self._open().write(offset, *pieces)

    def read(self, offset: int, length: int) -> bytes:
        return self._open().read(offset, length)

    def sync(self) -> None:
        self._open()

    def flush_soon(self, start: int, stop: int) -> None:
        self._open()

    def fingerprint(self) -> Fingerprint:
        return self._open().fingerprint()

    def close(self) -> None:
        self._blob = None


class MemoryStorage:
    """The storage contract over dictionaries; `capacity` is the size of the disk it stands for."""

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._partials: dict[str, _Blob] = {}
        self._files: dict[Target, _Blob] = {}
        self._inodes = itertools.count(1)
        self._lock = threading.RLock()

    def create(self, session_id: str, size: int) -> bool:
        """Space in this storage is always set aside."""
        session_name(session_id)
        with self._lock:
            if session_id in self._partials:
                raise FileExistsError(session_id)
            if size > self.free_bytes():
                raise StorageFull(f"no room for {size} bytes in memory")
            self._partials[session_id] = _Blob(next(self._inodes), size)
        return True

    def open(self, session_id: str) -> _MemoryPartial:
        """See the contract."""
        return _MemoryPartial(self._partial(session_id))

    def _partial(self, session_id: str) -> _Blob:
        with self._lock:
            blob = self._partials.get(session_name(session_id))
        if blob is None:
            raise FileNotFoundError(session_id)
        return blob

    def discard(self, session_id: str) -> None:
        """See the contract."""
        with self._lock:
            self._partials.pop(session_name(session_id), None)

    def partials(self) -> Iterator[str]:
        """See the contract."""
        with self._lock:
            return iter(list(self._partials))

    def inode(self, session_id: str) -> int | None:
        """See the contract."""
        with self._lock:
            blob = self._partials.get(session_name(session_id))
        return blob.inode if blob is not None else None

    def free_bytes(self) -> int:
        """The capacity less every size, of partials and published files."""
        with self._lock:
            if self._capacity is None:
                return _UNLIMITED
            used = sum(blob.size for blob in itertools.chain(self._partials.values(), self._files.values()))
            return max(0, self._capacity - used)

    def prepare(self, session_id: str, attributes: Attributes) -> Prepared:
        """See the contract."""
        blob = self._partial(session_id)
        blob.set(attributes)
        return Prepared(blob.inode)

    def prepare_all(self, files: Sequence[NewFile]) -> list[Prepared | OSError | StorageFull]:
        """See the contract."""
        outcomes: list[Prepared | OSError | StorageFull] = []
        for file in files:
            try:
                self.create(file.session_id, len(file.content))
                self._partial(file.session_id).write(0, file.content)
                outcomes.append(self.prepare(file.session_id, file.attributes))
            except (OSError, StorageFull) as error:
                outcomes.append(error)
        return outcomes

    def publish_all(
        self, publications: Sequence[Publication]
    ) -> list[Fingerprint | PathConflict | OSError | StorageFull]:
        """See the contract."""
        outcomes: list[Fingerprint | PathConflict | OSError | StorageFull] = []
        for publication in publications:
            try:
                outcomes.append(self.publish(publication.session_id, publication.target, keep_old=publication.keep_old))
            except (PathConflict, OSError, StorageFull) as error:
                outcomes.append(error)
        return outcomes

    def publish(self, session_id: str, target: Target, *, keep_old: bool) -> Fingerprint:
        """See the contract."""
        _check(target)
        check_path(target.path)
        with self._lock:
            blob = self._partial(session_id)
            if self._is_folder(target):
                raise PathConflict(target.path)
            for path in (*parents(target.path), target.path):
                self._make_way(Target(target.user, path), keep_old)
            self._files[target] = self._partials.pop(session_id)
            blob.set(Attributes())
            return blob.fingerprint()

    def _make_way(self, target: Target, keep_old: bool) -> None:
        old = self._files.pop(target, None)
        if old is None or not keep_old:
            return
        folder, slash, name = target.path.rpartition(b"/")

        def aside(number: int) -> Target:
            return Target(target.user, folder + slash + numbered_name(name, number))

        self._files[aside(free_number(lambda number: self._is_taken(aside(number))))] = old

    def _is_taken(self, target: Target) -> bool:
        return target in self._files or self._is_folder(target)

    def _is_folder(self, target: Target) -> bool:
        below = target.path + b"/"
        return any(found.user == target.user and found.path.startswith(below) for found in self._files)

    def finish(self, target: Target, inode: int) -> Fingerprint | None:
        """See the contract."""
        found = self.published(target)
        return found if found is not None and found.inode == inode else None

    def published(self, target: Target) -> Fingerprint | None:
        """See the contract."""
        blob = self._published(target)
        return blob.fingerprint() if blob is not None else None

    def _published(self, target: Target) -> _Blob | None:
        _check(target)
        with self._lock:
            return self._files.get(target)

    def open_published(self, target: Target) -> _MemoryPartial | None:
        """See the contract."""
        blob = self._published(target)
        return _MemoryPartial(blob) if blob is not None else None

    def set_attributes(self, target: Target, attributes: Attributes) -> Fingerprint | None:
        """See the contract."""
        blob = self._published(target)
        if blob is None:
            return None
        blob.set(attributes)
        return blob.fingerprint()

    def clone(self, target: Target, session_id: str) -> bool:
        """Memory shares nothing."""
        return False

    def walk(self, user: str | None = None) -> Iterator[tuple[Target, Fingerprint]]:
        """See the contract."""
        with self._lock:
            found = [(target, blob) for target, blob in self._files.items() if user in (None, target.user)]
        return ((target, blob.fingerprint()) for target, blob in found)

    def probe(self) -> None:
        """Memory is ready while it has room."""
        if self.free_bytes() <= 0:
            raise StorageFull("no room in memory")

    def close(self) -> None:
        """Nothing is held."""


def _check(target: Target) -> None:
    user_name(target.user)
    path_names(target.path)
