"""All watched folders: a thread for each, one reader of events for all. What a folder does is in `folder`.

A thread of its own for each folder, because a file system that hangs (a server that is down, a broken disk) holds
whoever touches it for minutes: it must hold nobody else.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

import msgspec

from chunkyd.clock import Clock
from chunkyd.errors import EnvironmentFailure
from chunkyd.watch.folder import WatchedFolder
from chunkyd.watch.observer import Channel, Hint, Observer
from chunkyd.watch.schedule import Ticket
from chunkyd.watch.shapes import Knowledge, RootStatus, Sink, WatchedRoot

_LOG = logging.getLogger("chunkyd.watch")
_MAIL_AT_ONCE = 2000
_ANSWER_WITHIN = 0.5
_STUCK_AFTER = 120.0
_LONGEST_SLEEP = 3600.0
_PASS_TICK = 0.05
_STOP_TIMEOUT = 5.0


class _Stop:
    """The order to end."""


class _Look(msgspec.Struct, frozen=True):
    """The order to look at a file."""

    path: bytes


_Mail = Hint | Ticket | Future[RootStatus] | _Look | _Stop


class _FolderThread(threading.Thread):
    """Reads a folder's mailbox: hints, orders and questions; everything of the folder happens in here."""

    def __init__(
        self, root: WatchedRoot, knowledge: Knowledge, sink: Sink, clock: Clock, observer: Observer | None, why_not: str
    ) -> None:
        super().__init__(name=f"chunkyd-watch-{root.name}", daemon=True)
        self.root = root
        self._clock = clock
        self._mailbox: SimpleQueue[_Mail] = SimpleQueue()
        self._stopping = False
        self._tickets: list[Ticket] = []  # of scans asked for and not ended: none is waited for when the thread is over
        channel = Channel(self._mailbox.put, self._mailbox.qsize)
        self.folder = WatchedFolder(root, knowledge, sink, clock, observer, channel, why_not)
        self._last = self.folder.status()
        self.turn_began: float | None = None

    def run(self) -> None:
        try:
            while not self._stopping:
                self.turn_began = None
                mail = self._wait()
                self.turn_began = self._clock.monotonic()
                questions = self._read(mail)
                self.folder.turn()
                self._answer(questions)
        except Exception:  # noqa: BLE001  a thread has nobody to raise to
            # `alive` tells it, and who restarts the program finds the reason here.
            _LOG.exception("folder %s: watching has ended unexpectedly", self.root.name)
        finally:
            self.turn_began = None
            self.folder.close()
            self._give_up_scans()

    def _wait(self) -> _Mail | None:
        pause = min(_LONGEST_SLEEP, self.folder.due() - self._clock.monotonic())
        if pause <= 0:
            return self._next()
        try:
            return self._mailbox.get(timeout=pause)
        except Empty:
            return None

    def _read(self, mail: _Mail | None) -> list[Future[RootStatus]]:
        """Take the mail, up to a limit; the questions are answered after the turn."""
        questions: list[Future[RootStatus]] = []
        taken = 0
        while mail is not None:
            if isinstance(mail, Hint):
                self.folder.take(mail)
            elif isinstance(mail, Ticket):
                self.folder.rescan(mail)
            elif isinstance(mail, _Look):
                self.folder.look_at(mail.path)
            elif isinstance(mail, Future):
                questions.append(mail)
            taken += 1
            mail = self._next() if taken < _MAIL_AT_ONCE else None
        return questions

    def _next(self) -> _Mail | None:
        try:
            return self._mailbox.get_nowait()
        except Empty:
            return None

    def _answer(self, questions: list[Future[RootStatus]]) -> None:
        if questions:
            self._last = self.folder.status()
        for question in questions:
            question.set_result(self._last)

    def send(self, mail: _Mail) -> None:
        """Put something into the mailbox."""
        self._mailbox.put(mail)

    def scan(self, ticket: Ticket) -> None:
        """Ask for a scan; one that cannot be made any more, for whatever reason, is ended at once."""
        self._tickets = [*(each for each in self._tickets if not each.ended), ticket]
        self.send(ticket)
        if self._stopping or not self.is_alive():
            self._give_up_scans()

    def _give_up_scans(self) -> None:
        for ticket in self._tickets:
            ticket.finish(scanned=False)

    def stop(self) -> None:
        """Ask it to end; `join` waits."""
        self._stopping = True
        self.folder.muted = True
        self._give_up_scans()
        self._mailbox.put(_Stop())

    def stuck(self) -> bool:
        """Whether a call to the sink does not return. A folder that hangs is its file system's fault, and no reason."""
        since = self.turn_began
        return self.folder.telling and since is not None and self._clock.monotonic() - since > _STUCK_AFTER

    def last_status(self) -> RootStatus:
        """The last answer, with what keeps the thread from giving another."""
        since = self.turn_began
        if self.ident is not None and not self.is_alive() and not self._stopping:
            problem = "watching this folder has ended unexpectedly"
        elif since is not None and self._clock.monotonic() - since > _ANSWER_WITHIN:
            problem = f"the folder or the job table has not answered for {self._clock.monotonic() - since:.0f} seconds"
        else:
            return self._last
        return msgspec.structs.replace(self._last, state="degraded", problem=problem, mend="Look at the log.")


class Rescan:
    """A scan of one or of several folders that was asked for."""

    def __init__(self, tickets: Sequence[Ticket], clock: Clock) -> None:
        self._tickets = tickets
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all have ended and were told; False after `timeout` seconds, or where one cannot be made (a folder
        is missing, or no longer watched).
        """
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        ended = [
            ticket.wait(None if deadline is None else max(0.0, deadline - self._clock.monotonic()))
            for ticket in self._tickets
        ]
        return all(ended)


class Watcher:
    """Watches folders and tells the sink which files are ready. `watch_limit` lowers the kernel's limit."""

    def __init__(
        self,
        roots: Iterable[WatchedRoot],
        knowledge: Knowledge,
        sink: Sink,
        clock: Clock,
        *,
        watch_limit: int | None = None,
    ) -> None:
        self._roots = tuple(roots)
        self._knowledge = knowledge
        self._sink = sink
        self._clock = clock
        self._observer = Observer(watch_limit)
        self._no_inotify = ""
        self._lock = threading.Lock()
        self._threads: dict[str, _FolderThread] = {}

    def start(self) -> None:
        """Begin to watch; every folder is scanned at once."""
        try:
            self._observer.start()
        except OSError as error:
            self._no_inotify = os.strerror(error.errno or 0)
        self.reconfigure(self._roots)

    def stop(self, timeout: float = _STOP_TIMEOUT) -> None:
        """End watching. What was not told yet is found by the next start's scan."""
        with self._lock:
            threads, self._threads = list(self._threads.values()), {}
        self._end(threads, timeout)
        self._observer.stop(timeout)

    def _end(self, threads: Sequence[_FolderThread], timeout: float) -> None:
        deadline = self._clock.monotonic() + timeout
        for thread in threads:
            thread.stop()
        for thread in threads:
            if thread.ident is None:
                continue  # the system let it not begin
            thread.join(max(0.0, deadline - self._clock.monotonic()))
            if thread.is_alive():
                _LOG.warning("folder %s: its file system does not answer; left behind", thread.root.name)

    def reconfigure(self, roots: Iterable[WatchedRoot]) -> None:
        """Watch these folders from now on; those that are as they were are not disturbed."""
        wanted = {root.name: root for root in roots}
        with self._lock:
            over = [thread for name, thread in self._threads.items() if wanted.get(name) != thread.root]
            kept = {name: thread for name, thread in self._threads.items() if thread not in over}
            fresh = {name: self._thread(root) for name, root in wanted.items() if name not in kept}
            self._end(over, _STOP_TIMEOUT)
            self._threads = kept | fresh
            for thread in fresh.values():
                thread.start()

    def _thread(self, root: WatchedRoot) -> _FolderThread:
        observer = None if self._no_inotify or root.poll else self._observer
        why_not = "" if root.poll else self._no_inotify
        return _FolderThread(root, self._knowledge, self._sink, self._clock, observer, why_not)

    def rescan(self, folder: str | None = None) -> Rescan:
        """Scan one folder, or all, from the top. KeyError for a folder that is not watched."""
        with self._lock:
            threads = list(self._threads.values()) if folder is None else [self._threads[folder]]
        tickets = [Ticket() for _ in threads]
        for thread, ticket in zip(threads, tickets, strict=True):
            thread.scan(ticket)
        return Rescan(tickets, self._clock)

    def look(self, folder: str, path: bytes) -> None:
        """A file need not be the version that was told, and perhaps no event has said so: it is looked at, and told."""
        with self._lock:
            thread = self._threads.get(folder)
        if thread is not None:
            thread.send(_Look(path))

    def status(self) -> list[RootStatus]:
        """How each folder fares; one that does not answer at once is described from outside."""
        with self._lock:
            threads = list(self._threads.values())
        questions: list[Future[RootStatus]] = [Future() for _ in threads]
        for thread, question in zip(threads, questions, strict=True):
            thread.send(question)
        deadline = self._clock.monotonic() + _ANSWER_WITHIN
        return [self._status(thread, question, deadline) for thread, question in zip(threads, questions, strict=True)]

    def _status(self, thread: _FolderThread, question: Future[RootStatus], deadline: float) -> RootStatus:
        try:
            return question.result(max(0.0, deadline - self._clock.monotonic()) if thread.is_alive() else 0.0)
        except TimeoutError:
            return thread.last_status()

    def alive(self) -> bool:
        """Whether all threads live and none is stuck in the sink: for a watchdog."""
        with self._lock:
            threads = list(self._threads.values())
        return all(thread.is_alive() and not thread.stuck() for thread in threads)

    def failures(self) -> list[EnvironmentFailure]:
        """Why changes wait to be recorded, for each folder where they do."""
        with self._lock:
            errors = [thread.folder.backoff.error for thread in self._threads.values()]
        return [error for error in errors if error is not None]


def one_pass(
    roots: Iterable[WatchedRoot], knowledge: Knowledge, sink: Sink, clock: Clock, stop: threading.Event
) -> list[RootStatus]:
    """Scan each folder once, wait until what was found has settled or is found to be changing; how each fared.

    Ends early when `stop` is set. EnvironmentFailure where the sink cannot record what was found.
    """
    polled = [msgspec.structs.replace(root, poll=True, rescan=0.0) for root in roots]
    watcher = Watcher(polled, knowledge, sink, clock)
    watcher.start()
    try:
        while True:
            found = watcher.status()
            for error in watcher.failures():
                raise error
            if stop.wait(_PASS_TICK) or all(_at_rest(status) for status in found):
                return found
    finally:
        watcher.stop()


def _at_rest(status: RootStatus) -> bool:
    if status.state == "missing":
        return True
    return status.last_scan is not None and status.settling <= status.changing
