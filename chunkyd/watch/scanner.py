"""Walks one root, some hundred entries at a time, so that the root's thread can do other things in between.

- A directory is watched first and read then: nothing that comes in between is missed.
- A full scan reads every directory. A hinted walk (a new directory, one moved in) enters only what is not known yet:
  a tree that is copied in step by step is read once and not once for each of its levels.
- What could not be read is named, and the rest goes on. Nothing is ever concluded to be gone from not being seen.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from functools import partial

import msgspec

from chunkyd.clock import Clock, SinceSet
from chunkyd.errors import EnvironmentFailure
from chunkyd.files import Fingerprint
from chunkyd.watch.ignore import Ignore, is_own
from chunkyd.watch.outbox import Backoff, Outbox
from chunkyd.watch.rescan import Batch, entries, open_directory
from chunkyd.watch.roots import FileSystem
from chunkyd.watch.settle import Settling
from chunkyd.watch.shapes import Knowledge, Settled, WatchedRoot
from chunkyd.watch.tree import Node, Tree
from chunkyd.watch.unreadable import Unreadable
from chunkyd.watch.writers import open_for_writing

_AHEAD = 15  # directories whose known versions are asked for before they are entered
_Ahead = dict[bytes, Mapping[bytes, Fingerprint]]
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Totals(msgspec.Struct):
    """What a full scan came across. `strange` is one example of what is never sent."""

    files: int = 0
    directories: int = 0
    skipped: int = 0
    strange: bytes = b""


class Scanner:
    """The walks of one root, and what they find."""

    def __init__(
        self,
        root: WatchedRoot,
        ignore: Ignore,
        settling: Settling,
        tree: Tree | None,
        outbox: Outbox,
        knowledge: Knowledge,
        backoff: Backoff,
        clock: Clock,
        since_set: SinceSet,
        system: FileSystem,
    ) -> None:
        self._root = root
        self._top = os.fsencode(root.path)
        self._ignore = ignore
        self._settling = settling
        self._tree = tree
        self._outbox = outbox
        self._knowledge = knowledge
        self._backoff = backoff
        self._clock = clock
        self._since_set = since_set
        self._system = system
        self._hinted: dict[bytes, None] = {}
        self._hinted_walk: Iterator[None] | None = None
        self._full_walk: Iterator[None] | None = None
        self._counting = Totals()
        self.totals = Totals()
        self.unreadable = Unreadable()

    @property
    def busy(self) -> bool:
        """Whether there is anything to walk."""
        return self.full or self._hinted_walk is not None or bool(self._hinted)

    @property
    def full(self) -> bool:
        """Whether a full scan is under way."""
        return self._full_walk is not None

    def hint(self, directory: bytes) -> None:
        """A directory is new, or may be: enter it soon."""
        self._hinted[directory] = None

    def begin_full(self) -> None:
        """Begin a full scan, from the top."""
        self._counting = Totals()
        self.unreadable.clear()
        self._full_walk = self._walk([b""], full=True)

    def step(self) -> bool:
        """Read a little; True when the full scan has just ended."""
        if self._hinted_walk is None and self._hinted:
            self._hinted_walk = self._walk(list(self._hinted), full=False)
            self._hinted.clear()
        if self._hinted_walk is not None:
            if next(self._hinted_walk, self) is self:
                self._hinted_walk = None
            return False
        if self._full_walk is None or next(self._full_walk, self) is not self:
            return False
        self._full_walk = None
        self.totals = self._counting
        return True

    def _walk(self, directories: list[bytes], *, full: bool) -> Iterator[None]:
        ahead: _Ahead = {}
        while directories:
            directory = directories.pop()
            yield from self._visit(directory, directories, ahead, full)
            ahead.pop(directory, None)

    def _visit(self, directory: bytes, found: list[bytes], ahead: _Ahead, full: bool) -> Iterator[None]:
        try:
            descriptor = open_directory(self._top, directory)
        except OSError as error:
            self._cannot_read(directory, error)
            return
        try:
            node = self._tree.enter(directory, descriptor, renew=full) if self._tree is not None else None
            if self._tree is not None and node is None:
                return
            if node is not None and not full and node.watch is not None and node.listed:
                self.unreadable.forget(directory)
                return
            self.unreadable.forget(directory)
            yield from self._list(directory, descriptor, node, found, ahead, full)
        except OSError as error:
            self._cannot_read(directory, error)
        finally:
            os.close(descriptor)

    def _list(
        self, directory: bytes, descriptor: int, node: Node | None, found: list[bytes], ahead: _Ahead, full: bool
    ) -> Iterator[None]:
        before = list(node.children.values()) if node is not None else []
        seen: set[bytes] = set()
        known: Mapping[bytes, Fingerprint] | None = None
        for batch in entries(descriptor):
            while batch.files and known is None:
                known = self._known(directory, found, ahead)
                if known is None:
                    yield
            self._take_files(directory, batch, known or {}, full)
            for name in batch.directories:
                path = os.path.join(directory, name)
                if self._ignore.directory(path):
                    continue
                seen.add(name)
                if full or node is None or name not in node.children:
                    found.append(path)
            yield
        if node is not None and self._tree is not None:
            self._tree.prune(before, seen)
            node.listed = directory not in self.unreadable.directories
        self._counting.directories += full

    def _known(self, directory: bytes, found: list[bytes], ahead: _Ahead) -> Mapping[bytes, Fingerprint] | None:
        """What is known here; with it comes what is known of the directories that are next, which may be late by then.

        That does no harm: a version that was sent meanwhile is told once more, and the sink looks for itself.
        """
        if directory not in ahead:
            soon = reversed(found[-_AHEAD:]) if len(ahead) < _AHEAD else ()
            asked = [directory, *(each for each in soon if each not in ahead)]
            try:
                ahead.update(self._knowledge.versions(self._root.name, asked))
            except EnvironmentFailure as error:
                self._backoff.failed(error, self._clock.monotonic())
                return None
            self._backoff.worked()
        return ahead[directory]

    def _take_files(self, directory: bytes, batch: Batch, known: Mapping[bytes, Fingerprint], full: bool) -> None:
        stable = self._system.stable_inodes
        others = [
            (name, found)
            for name, found in batch.files
            if (before := known.get(name)) != found
            and (before is None or not found.same_version(before, stable_inodes=stable))
        ]
        count = len(batch.files) - len(others) + (self._take_others(directory, others) if others else 0)
        for name in batch.unreadable:
            self.unreadable.remember(os.path.join(directory, name), "it cannot be looked at")
            self.unreadable.directories.add(directory)
        if full:
            self._count(directory, batch, count)

    def _take_others(self, directory: bytes, others: list[tuple[bytes, Fingerprint]]) -> int:
        """Files that are not known in this version; how many of them are not left out."""
        now, wall, believed = self._clock.monotonic(), self._clock.wall(), self._since_set.seconds()
        count = 0
        for name, found in others:
            path = os.path.join(directory, name)
            if self._ignore.file(path):
                if is_own(path):
                    self._outbox.left_behind(path)
                continue
            count += 1
            written = partial(open_for_writing, self._top, path)
            if self._settling.saw(path, found, now, min(believed, self._system.quiet(found, wall)), written):
                self._outbox.settled(Settled(self._root.name, path, found))
        return count

    def _count(self, directory: bytes, batch: Batch, files: int) -> None:
        self._counting.files += files
        self._counting.skipped += len(batch.special) + len(batch.unreadable)
        if batch.special and not self._counting.strange:
            self._counting.strange = os.path.join(directory, batch.special[0])

    def _cannot_read(self, directory: bytes, error: OSError) -> None:
        self.unreadable.forget(directory)
        if error.errno in _VANISHED and directory:
            return
        self._counting.skipped += 1
        self.unreadable.remember(directory, os.strerror(error.errno or 0))
        self.unreadable.directories.add(directory)
        node = self._tree.find(directory) if self._tree is not None else None
        if node is not None:
            node.listed = False

    def close(self) -> None:
        """Give up all walks."""
        self._hinted.clear()
        self.unreadable.clear()
        self._hinted_walk = self._full_walk = None
