"""The directories of one root that are watched: a tree, so that one that moves away takes its watches along.

Touched by the root's own thread alone. A node without a watch (the limit was reached) stands in `unwatched`: polled.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator

from chunkyd.watch.observer import Channel, DirectoryWatch, Observer
from chunkyd.watch.roots import Identity, identity


class Node:
    """A directory. `listed` is set when it was read to its end under its watch."""

    __slots__ = ("children", "identity", "listed", "name", "parent", "watch")

    def __init__(self, parent: Node | None, name: bytes, found: Identity) -> None:
        self.parent = parent
        self.name = name
        self.identity = found
        self.children: dict[bytes, Node] = {}
        self.watch: DirectoryWatch | None = None
        self.listed = False

    def path(self) -> bytes:
        """Its path below the root; empty for the root."""
        parts: list[bytes] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/".join(reversed(parts))


class Tree:
    """The watched directories of one root."""

    def __init__(self, observer: Observer, channel: Channel) -> None:
        self._observer = observer
        self._channel = channel
        self._generation = observer.generation
        self._root: Node | None = None
        self.unwatched: set[Node] = set()
        self.watched = 0
        self.limit_reached = False

    @property
    def stale(self) -> bool:
        """Whether the observer lost all watches since this tree was begun."""
        return self._generation != self._observer.generation

    def find(self, directory: bytes) -> Node | None:
        """The node of a directory; None for one that was never entered, or has moved away."""
        node = self._root
        for part in directory.split(b"/") if directory else ():
            if node is None:
                return None
            node = node.children.get(part)
        return node

    def enter(self, directory: bytes, descriptor: int, *, renew: bool) -> Node | None:
        """The node of the directory that is open here, watched from now on if that is possible.

        `renew` makes sure of a watch that stands already: the event that told of its end may have been lost.

        None where its parent is not known: then that one has moved, and whoever finds it again enters this one too.
        """
        found = identity(os.fstat(descriptor))
        node = self.find(directory)
        if node is not None and node.identity != found:
            self.drop(node)
            node = None
        if node is None:
            node = self._add(directory, found)
        if node is not None and node.watch is None:
            self._watch(node, descriptor)
        elif node is not None and node.watch is not None and renew:
            self._renew(node, node.watch, descriptor)
        return node

    def _renew(self, node: Node, watch: DirectoryWatch, descriptor: int) -> None:
        try:
            node.watch = self._observer.renew(descriptor, self._channel, watch)
        except OSError:
            self.unwatched.add(node)
            node.watch = None
            self.watched -= 1
            self._observer.drop([watch])

    def _add(self, directory: bytes, found: Identity) -> Node | None:
        if not directory:
            self._root = Node(None, b"", found)
            return self._root
        above, _, name = directory.rpartition(b"/")
        parent = self.find(above)
        if parent is None:
            return None
        node = parent.children[name] = Node(parent, name, found)
        return node

    def _watch(self, node: Node, descriptor: int) -> None:
        try:
            node.watch = self._observer.watch(descriptor, self._channel, node)
        except OSError as error:
            self.limit_reached = self.limit_reached or error.errno == errno.ENOSPC
            self.unwatched.add(node)
            return
        node.listed = False
        self.watched += 1
        self.unwatched.discard(node)
        self.limit_reached = self.limit_reached and bool(self.unwatched)

    def drop(self, node: Node) -> None:
        """A directory is no longer where it was: forget it and all that is below, with their watches."""
        if node.parent is not None and node.parent.children.get(node.name) is node:
            del node.parent.children[node.name]
        if node is self._root:
            self._root = None
        self._observer.drop(list(self._unhook(node)))
        self.limit_reached = self.limit_reached and bool(self.unwatched)

    def _unhook(self, top: Node) -> Iterator[DirectoryWatch]:
        nodes = [top]
        while nodes:
            node = nodes.pop()
            nodes.extend(node.children.values())
            self.unwatched.discard(node)
            watch, node.watch = node.watch, None
            if watch is not None:
                self.watched -= 1
                yield watch

    def prune(self, before: Iterable[Node], seen: set[bytes]) -> None:
        """Drop those children that stood here before a listing began and did not appear in it."""
        for child in before:
            if child.name not in seen and child.parent is not None and child.parent.children.get(child.name) is child:
                self.drop(child)

    def clear(self) -> None:
        """Forget all."""
        if self._root is not None:
            self.drop(self._root)
        self.unwatched.clear()
