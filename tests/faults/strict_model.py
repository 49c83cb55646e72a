"""What a disk keeps when the power goes, as strictly as POSIX allows: what was not synced may be gone, in any choice.

    a file's bytes and size     durable by fsync or fdatasync of the file; before that each sector is on its own
    its times and mode          durable by fsync of the file
    an entry of a folder        durable by fsync of that folder; before that each name is on its own, in its own order
    a rename                    takes a name away only together with giving the other: a file is never without both

No journal's kindness is assumed: a later entry may be there without an earlier one, a size without its bytes.
"""

from __future__ import annotations

import random
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

SECTOR = 512
ROOT = 1


@dataclass
class Attributes:
    """Of an inode; times in nanoseconds."""

    mode: int
    uid: int
    gid: int
    accessed: int
    modified: int
    changed: int
    target: bytes = b""  # of a symbolic link

    def copy(self) -> Attributes:
        """As they are now."""
        return Attributes(**vars(self))


@dataclass
class Inode:
    """Alive as programs see it, and durable as a power cut leaves it."""

    number: int
    attributes: Attributes
    kept: Attributes
    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: list[tuple[int, int]] = field(default_factory=list)
    entries: dict[bytes, int] = field(default_factory=dict)
    links: int = 0
    opened: int = 0
    place: tuple[int, bytes] = (ROOT, b"")  # folder and name it was given last
    grain: int = 1  # nanoseconds between two times it can have

    @property
    def is_folder(self) -> bool:
        """Whether it has entries instead of bytes."""
        return stat.S_ISDIR(self.attributes.mode)

    def touch(self, *, modified: bool = True) -> None:
        """A change happens now."""
        now = time.time_ns()
        self.attributes.changed = now - now % self.grain
        if modified:
            self.attributes.modified = self.attributes.changed

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Bytes; a gap before them becomes zeros."""
        end = offset + len(content)
        first = min(offset, len(self.data))
        if end > len(self.data):
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = content
        self._soil(first, end)

    def resize(self, size: int) -> None:
        """Cut off, or grow by zeros."""
        first, end = sorted((size, len(self.data)))
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))
        self._soil(first, end)

    def _soil(self, first: int, end: int) -> None:
        if self.dirty and self.dirty[-1][1] == first:
            first = self.dirty.pop()[0]
        if first < end:
            self.dirty.append((first, end))

    def sync(self, *, data_only: bool) -> None:
        """What is there now survives."""
        self._keep_bytes(len(self.data), self.dirty)
        self.dirty = []
        if not data_only:
            self.kept = self.attributes.copy()

    def _keep_bytes(self, size: int, ranges: list[tuple[int, int]]) -> None:
        if size < len(self.durable):
            del self.durable[size:]
        self.durable.extend(bytes(size - len(self.durable)))
        for first, end in ranges:
            stop = min(end, size)
            if first < stop:
                self.durable[first:stop] = self.data[first:stop].ljust(stop - first, b"\0")

    def lose(self, chance: random.Random, survival: float) -> None:
        """The power goes: unsynced bytes survive by sectors, the size and the attributes each for themselves."""
        if self.dirty:
            size = len(self.data) if chance.random() < survival else len(self.durable)
            # All of one sort now and then: a size without its bytes is what delayed allocation leaves.
            each = survival if survival in (0.0, 1.0) else chance.choice((0.0, survival, 1.0))
            self._keep_bytes(size, [bit for bit in self._sectors() if chance.random() < each])
        if chance.random() < survival:
            self.kept = self.attributes.copy()
        self.data, self.dirty, self.attributes = bytearray(self.durable), [], self.kept.copy()

    def _sectors(self) -> Iterator[tuple[int, int]]:
        for first, end in self.dirty:
            for start in range(first // SECTOR * SECTOR, end, SECTOR):
                yield max(first, start), min(end, start + SECTOR)


@dataclass(eq=False)
class Change:
    """An entry that is not durable yet: given, or taken away (no inode)."""

    folder: int
    name: bytes
    inode: int | None
    needs: Change | None = None


class Disk:
    """All inodes; every change of an entry goes through `enter` and `leave`."""

    def __init__(self, seed: int = 0) -> None:
        now = time.time_ns()
        attributes = Attributes(stat.S_IFDIR | 0o755, 0, 0, now, now, now)
        self.inodes = {ROOT: Inode(ROOT, attributes, attributes.copy(), links=1)}
        self._durable: dict[int, dict[bytes, int]] = {ROOT: {}}
        self._pending: list[Change] = []
        self._next = ROOT
        self.grain = 1  # of the times of inodes made from now on
        self.chance = random.Random(seed)

    def make(self, mode: int, uid: int, gid: int, target: bytes = b"") -> Inode:
        """A new inode, without a name."""
        self._next += 1
        now = time.time_ns() // self.grain * self.grain
        attributes = Attributes(mode, uid, gid, now, now, now, target)
        inode = Inode(self._next, attributes, attributes.copy(), grain=self.grain)
        self.inodes[inode.number] = inode
        if inode.is_folder:
            self._durable[inode.number] = {}
        return inode

    def enter(self, folder: Inode, name: bytes, inode: Inode) -> Change:
        """The name stands for this inode; what it stood for has a link less."""
        before = folder.entries.get(name)
        if before is not None:
            self._unlinked(before)
        inode.links += 1
        inode.place = (folder.number, name)
        inode.touch(modified=False)
        folder.entries[name] = inode.number
        return self._changed(folder, name, inode.number, None)

    def leave(self, folder: Inode, name: bytes, needs: Change | None = None) -> None:
        """The name stands for nothing; where it was renamed, not without the other name."""
        self._unlinked(folder.entries.pop(name))
        self._changed(folder, name, None, needs)

    def _changed(self, folder: Inode, name: bytes, inode: int | None, needs: Change | None) -> Change:
        folder.touch()
        change = Change(folder.number, name, inode, needs)
        self._pending.append(change)
        return change

    def _unlinked(self, number: int) -> None:
        inode = self.inodes[number]
        inode.links -= 1
        inode.touch(modified=False)

    def sync_folder(self, folder: Inode) -> None:
        """Its entries survive."""
        self._settle({change for change in self._pending if change.folder == folder.number})
        folder.kept = folder.attributes.copy()

    def sync_all(self) -> None:
        """Everything survives, as after `sync`."""
        self._settle(set(self._pending))
        for inode in self.inodes.values():
            inode.sync(data_only=False)

    def _settle(self, chosen: set[Change]) -> None:
        """These changes are durable, and what they need: of each name all that came before."""
        for change in reversed(self._pending):
            if change in chosen and change.needs is not None and change.needs in self._pending:
                chosen.add(change.needs)
        last: dict[tuple[int, bytes], int] = {}
        for place, change in enumerate(self._pending):
            if change in chosen:
                last[change.folder, change.name] = place
        rest = []
        for place, change in enumerate(self._pending):
            if place <= last.get((change.folder, change.name), -1):
                self._apply(change)
            else:
                rest.append(change)
        self._pending = rest

    def _apply(self, change: Change) -> None:
        entries = self._durable[change.folder]
        if change.inode is None:
            entries.pop(change.name, None)
        else:
            entries[change.name] = change.inode

    def power_cut(self, survival: float) -> None:
        """What was not synced survives with this probability, each for itself; 0: nothing, 1: all."""
        self._settle({change for change in self._pending if self.chance.random() < survival})
        self._pending = []
        for inode in self.inodes.values():
            inode.lose(self.chance, survival)
            inode.links = inode.opened = 0
            inode.entries = dict(self._durable.get(inode.number, {}))
        self._drop_unreachable()

    def _drop_unreachable(self) -> None:
        reached, ahead = set(), [ROOT]
        self.inodes[ROOT].links = 1
        while ahead:
            number = ahead.pop()
            reached.add(number)
            for name, below in self.inodes[number].entries.items():
                self.inodes[below].links += 1
                self.inodes[below].place = (number, name)
                if below not in reached:
                    ahead.append(below)
        self.inodes = {number: inode for number, inode in self.inodes.items() if number in reached}
        self._durable = {number: entries for number, entries in self._durable.items() if number in reached}

    def find(self, path: bytes) -> Inode:
        """What a path from the root names."""
        inode = self.inodes[ROOT]
        for part in path.split(b"/") if path else ():
            inode = self.inodes[inode.entries[part]]
        return inode

    def path(self, inode: Inode) -> bytes:
        """The name it was given last, from the root."""
        parts: list[bytes] = []
        while inode.number != ROOT:
            parts.append(inode.place[1])
            inode = self.inodes[inode.place[0]]
        return b"/".join(reversed(parts))

    def used(self) -> int:
        """Bytes of all files that have a name or are open."""
        return sum(len(inode.data) for inode in self.inodes.values() if inode.links or inode.opened)
