"""One watched folder, from hints and scans to settled changes. Called by one thread alone, which brings the time.

- Nothing ticks but the look at the root itself; `due` says when the next thing is to be done.
- The root is looked at before and after every scan, before looks at files, and before anything is called gone. A root
  that is missing, or another folder than before, is told at once; all that was known of the old one is forgotten, and
  nothing is gone.
- Scans are cut in slices, so that files settle on time beside them.
"""

from __future__ import annotations

import contextlib
import logging
import os
from functools import partial

from chunkyd.clock import Clock, SinceSet
from chunkyd.errors import EnvironmentFailure
from chunkyd.protocol.paths import readable
from chunkyd.watch.ignore import Ignore
from chunkyd.watch.looks import Looks
from chunkyd.watch.observer import Channel, Hint, Kind, Observer
from chunkyd.watch.outbox import Backoff, Outbox
from chunkyd.watch.roots import FileSystem, Identity, file_system, look
from chunkyd.watch.scanner import Scanner
from chunkyd.watch.schedule import Schedule, Ticket
from chunkyd.watch.settle import Settling
from chunkyd.watch.shapes import Knowledge, RootStatus, Sink, State, WatchedRoot
from chunkyd.watch.status import missing, worst
from chunkyd.watch.tree import Node, Tree

_LOG = logging.getLogger("chunkyd.watch")
_NEVER = float("inf")
_ROOT_LOOKS = 2.0  # seconds between looks at the root itself
_SLICE = 0.02  # seconds of scanning between two looks at everything else
_BUNDLE = 0.05  # seconds in which findings of a scan are gathered into one call
_FINEST_SETTLE = 0.02  # two writes within one tick of the kernel's clock leave the same times
_COARSE_SETTLE = 2.0  # the grain of FAT's times
_NAMED = 20
_UNKNOWN = FileSystem("", network=False, stable_inodes=True)


class WatchedFolder:
    """The state of one folder. `observer` None means that there is no inotify to be had, for the reason given."""

    def __init__(
        self,
        root: WatchedRoot,
        knowledge: Knowledge,
        sink: Sink,
        clock: Clock,
        observer: Observer | None,
        channel: Channel,
        no_inotify: str = "",
    ) -> None:
        self.root = root
        self.backoff = Backoff()
        self._top = os.fsencode(root.path)
        self._knowledge = knowledge
        self._clock = clock
        self._since_set = SinceSet(clock)
        self._observer = observer
        self._channel = channel
        self._no_inotify = no_inotify
        self._ignore = Ignore(root.include, root.exclude)
        self._outbox = Outbox(root.name, sink)
        self._schedule = Schedule()
        self._identity: Identity | None = None
        self._problem = ""
        self._told_missing = False
        self._next_root_look = 0.0
        self._delivered = 0.0
        self._said_strange = False
        self.muted = False  # set from outside: a thread that hung must not speak when its owner has gone on
        self._begin(_UNKNOWN, polled=True)

    def _begin(self, system: FileSystem, *, polled: bool) -> None:
        """Start with nothing known of what is in the folder."""
        self._system = system
        finest = _FINEST_SETTLE if system.stable_inodes else _COARSE_SETTLE
        self._settling = Settling(max(self.root.settle, finest), stable_inodes=system.stable_inodes)
        self._tree = None if polled or self._observer is None else Tree(self._observer, self._channel)
        self._scanner = Scanner(
            self.root,
            self._ignore,
            self._settling,
            self._tree,
            self._outbox,
            self._knowledge,
            self.backoff,
            self._clock,
            self._since_set,
            system,
        )
        self._looks = Looks(
            self.root,
            system,
            self._settling,
            self._outbox,
            self._clock,
            self._since_set,
            self._holds,
            self._scanner.unreadable,
        )

    # Time.

    def due(self) -> float:
        """When there is something to do, by the monotonic clock."""
        retry = (self.backoff.until or 0.0) if self._scanner.busy or self._outbox else _NEVER
        if self._identity is None:
            return min(self._next_root_look, retry)
        look_again = self._settling.next_deadline()
        return min(
            self._next_root_look,
            retry,
            _NEVER if look_again is None else look_again,
            _NEVER if self._scanner.full else self._schedule.next_full,
            self._schedule.next_poll,
        )

    def turn(self) -> None:
        """Do what is due, and no more than a slice of a scan."""
        now = self._clock.monotonic()
        look_again = self._settling.next_deadline()
        if now >= self._next_root_look or (look_again is not None and now >= look_again):
            self._look_at_root(now)
        if self._identity is not None:
            self._looks.look()
            self._start_scans()
            self._scan()
        self._deliver()

    # The root.

    def _holds(self) -> bool:
        """Whether the root is still the folder it was; if not, it is looked at in the next turn."""
        if self._identity is not None and look(self._top).identity == self._identity:
            return True
        self._next_root_look = 0.0
        return False

    def _look_at_root(self, now: float) -> None:
        self._next_root_look = now + _ROOT_LOOKS
        self._see_to_observer()
        found = look(self._top)
        if found.identity is None or found.identity != self._identity:
            self._lose(found.problem)
            if found.identity is not None:
                self._take(found.identity)
        if self._identity is None:
            self._schedule.give_up()

    def _see_to_observer(self) -> None:
        if self._observer is not None and not self._observer.alive():
            with contextlib.suppress(OSError):
                self._observer.revive()
        if self._tree is not None and self._tree.stale:
            _LOG.warning("folder %s: watching it anew", self.root.name)
            self._begin(self._system, polled=False)
            self._schedule.interrupted()
            self._schedule.full_at(self._clock.monotonic())

    def _lose(self, problem: str) -> None:
        self._problem = problem
        if self._identity is not None or (problem and not self._told_missing):
            self._outbox.root_missing()
            self._told_missing = True
        self._identity = None
        self.forget()

    def _take(self, found: Identity) -> None:
        system = file_system(self._top)
        self._begin(system, polled=system.network if self.root.poll is None else self.root.poll)
        self._identity, self._problem, self._told_missing = found, "", False
        self._outbox.root_back()
        self._schedule.begin(self._clock.monotonic())

    def forget(self) -> None:
        """Drop what is known and watched of the folder."""
        self._scanner.close()
        self._settling.clear()
        if self._tree is not None:
            self._tree.clear()
        self._schedule.interrupted()

    def close(self) -> None:
        """Nobody calls any more."""
        self.forget()
        self._schedule.give_up()

    # Hints.

    def take(self, hint: Hint) -> None:
        """Something happened, or may have."""
        if hint.kind is Kind.OVERFLOW:
            self._channel.noticed()
            self._schedule.overflowed(self._clock.monotonic())
            return
        watch = hint.watch
        node = watch.owner if watch is not None else None
        if watch is None or self._tree is None or not isinstance(node, Node) or node.watch is None:
            return
        # A watch that was renewed has another object for the same descriptor, which is as good.
        if node.watch.descriptor != watch.descriptor:
            return
        if hint.name:
            self._take_named(hint.kind, node, hint.name)
        else:
            self._take_own(hint.kind, node)

    def look_at(self, path: bytes) -> None:
        """This file may have changed without any event."""
        if self._identity is not None and not self._ignore.file(path):
            self._settling.hint(path, self._clock.monotonic())

    def _take_named(self, kind: Kind, node: Node, name: bytes) -> None:
        path = os.path.join(node.path(), name)
        if kind in (Kind.DIRECTORY_TOUCHED, Kind.DIRECTORY_GONE):
            if not self._ignore.directory(path):
                self._take_directory(kind, node, name, path)
        elif kind is Kind.WRITTEN and path in self._settling:
            return  # looked at when its time comes
        elif not self._ignore.file(path):
            if kind is Kind.GONE:
                self._looks.look_for(path)
            else:
                self._settling.hint(path, self._clock.monotonic())

    def _take_directory(self, kind: Kind, node: Node, name: bytes, path: bytes) -> None:
        if kind is Kind.DIRECTORY_TOUCHED:
            self._scanner.hint(path)
            return
        child = node.children.get(name)
        if child is not None and self._tree is not None:
            self._tree.drop(child)
        self._looks.look_for(path)

    def _take_own(self, kind: Kind, node: Node) -> None:
        """A directory itself went away: its parent's hint tells that too, but the root has none."""
        if node.parent is None:
            if kind in (Kind.UNMOUNTED, Kind.WATCH_LOST):
                # One made anew at once may have the same inode: it is another folder all the same.
                self._lose("the folder was removed")
            self._next_root_look = 0.0
        elif kind in (Kind.UNMOUNTED, Kind.WATCH_LOST) and self._tree is not None:
            path = node.path()
            self._tree.drop(node)
            self._scanner.hint(path)

    # Scans.

    def rescan(self, ticket: Ticket) -> None:
        """A full scan is wanted now; one under way may be past the place that is meant, so it is another one."""
        self._schedule.wanted(ticket, self._clock.monotonic())
        self._next_root_look = 0.0

    def _start_scans(self) -> None:
        now = self._clock.monotonic()
        if not self._scanner.full and now >= self._schedule.next_full and self._holds():
            self._schedule.started(now)
            self._scanner.begin_full()
        unwatched = self._tree.unwatched if self._tree is not None else ()
        unreadable = self._scanner.unreadable.directories
        if now >= self._schedule.next_poll:
            for path in (*(node.path() for node in unwatched), *unreadable):
                self._scanner.hint(path)
        self._schedule.poll(now, wanted=bool(unwatched or unreadable))

    def _scan(self) -> None:
        now = self._clock.monotonic()
        until = now + _SLICE
        while self._scanner.busy and not self.backoff.blocks(now):
            if self._scanner.step() and self._holds():
                self._scan_ended()
            now = self._clock.monotonic()
            if now >= until:
                return

    def _scan_ended(self) -> None:
        totals = self._scanner.totals
        if totals.strange and not self._said_strange:
            self._said_strange = True
            _LOG.info(
                "folder %s: symlinks, FIFOs, sockets and devices are not sent, for example %s",
                self.root.name,
                readable(totals.strange),
            )
        polled_every = self._tree is None
        waiting = self._schedule.ended(self._clock.monotonic(), self.root.rescan, polled=polled_every)
        self._outbox.scanned(partial(self._told, waiting, self._clock.wall()))

    def _told(self, waiting: list[Ticket], wall: float) -> None:
        self._schedule.last_wall = wall
        for ticket in waiting:
            ticket.finish(scanned=True)

    # Telling.

    def _deliver(self) -> None:
        now = self._clock.monotonic()
        if self.muted or not self._outbox or self.backoff.blocks(now):
            return
        if self._scanner.busy and now < self._delivered + _BUNDLE:
            return
        try:
            self._outbox.deliver()
        except EnvironmentFailure as error:
            _LOG.warning("folder %s: changes wait to be recorded: %s", self.root.name, error)
            self.backoff.failed(error, now)
        else:
            self.backoff.worked()
            self._delivered = now

    @property
    def telling(self) -> bool:
        """Whether the sink is being called."""
        return self._outbox.telling

    def status(self) -> RootStatus:
        """How the folder fares."""
        changing = self._settling.changing(self._clock.monotonic())
        totals = self._scanner.totals
        trouble = (
            missing(self._problem)
            if self._problem
            else worst(self.backoff, self._no_inotify, self._tree, self._scanner.unreadable.named)
        )
        return RootStatus(
            folder=self.root.name,
            path=self.root.path,
            state=self._state(troubled=trouble is not None),
            problem=trouble.problem if trouble else "",
            mend=trouble.mend if trouble else "",
            files=totals.files,
            directories=totals.directories if self._tree is None else self._tree.watched + len(self._tree.unwatched),
            settling=len(self._settling) + len(self._outbox),
            changing=len(changing),
            changing_paths=tuple(changing[:_NAMED]),
            last_scan=self._schedule.last_wall,
            skipped=totals.skipped,
            stable_inodes=self._system.stable_inodes,
        )

    def _state(self, *, troubled: bool) -> State:
        if self._identity is None and self._problem:
            return "missing"
        if troubled:
            return "degraded"
        if self._schedule.last_wall is None:
            return "scanning"
        return "polling" if self._tree is None else "watching"
