"""The queue against a plain model, whatever the order in which watcher, workers, user, clock and crashes act."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chunkyd.clock import ManualClock
from chunkyd.jobs.job import Job
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import ENDED, MOVES, Reason, State
from tests.jobs.shared import HASH, URL, change, check_table, open_queue

PATHS = [b"a", b"a/b", b"a/b/c", b"d"]
FOLDERS = ["films", "photos"]
STEPS = ["open", "progress", "arrive", "release", "wait", "fail", "restart", "gone", "changed", "pause", "full"]


class Machine(RuleBasedStateMachine):
    """Keeps beside the queue: which version each path has, who works on what, and every state each job was seen in."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chunkyd-jobs-"))
        self.clock = ManualClock()
        self.queue: Queue = open_queue(self.folder, self.clock)
        self.run = 1
        self.number = 0
        self.latest: dict[tuple[str, bytes], int] = {}
        self.settled: dict[tuple[str, bytes], int] = {}  # versions that need not go again
        self.workers: dict[int, Job] = {}
        self.seen: dict[int, State] = {}
        self.sessions: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.queue.close()
            shutil.rmtree(self.folder)

    @rule(folder=st.sampled_from(FOLDERS), path=st.sampled_from(PATHS), again=st.booleans())
    def offer(self, folder: str, path: bytes, again: bool) -> None:
        """A new version, or one that was offered before."""
        place = (folder, path)
        if not again or place not in self.latest:
            self.number += 1
            self.latest[place] = self.number
        self.queue.offer([change(path, self.latest[place], folder, priority=self.number % 3)])

    @rule(mended=st.sampled_from([True, True, False]), steps=st.lists(st.sampled_from(STEPS), max_size=4))
    def claim(self, mended: bool, steps: list[str]) -> None:
        """A worker asks for a job, mostly after all that held the queue was mended, and does some steps of it."""
        if mended:
            self.queue.lift(Reason.NETWORK)
            self.queue.resume_user()
            for folder in FOLDERS:
                self.queue.root_back(folder)
        job = self.queue.claim(f"run-{self.run}", FOLDERS)
        if job is None:
            return
        assert job.id not in self.workers, "claimed twice"
        for other in self.workers.values():
            one, two = job.path + b"/", other.path + b"/"
            assert job.folder != other.folder or not (one.startswith(two) or two.startswith(one)), "in the way"
        self.workers[job.id] = job
        for step in steps:
            if job.id in self.workers:
                self.step(job, step, 0)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), step=st.sampled_from(STEPS))
    def work(self, data: st.DataObject, step: str) -> None:
        """One step of one worker, which may have lost its job without knowing."""
        job = self.workers[data.draw(st.sampled_from(sorted(self.workers)))]
        self.step(job, step, data.draw(st.integers(0, 1)))

    def step(self, job: Job, step: str, variant: int) -> None:
        if step == "open":
            session = f"s{self.run}-{job.id}-{job.claims}-{variant}"
            self.queue.opened(job, session, URL, HASH)
            self.sessions.add(session)
        elif step == "progress":
            self.queue.progress(job, 100 + 300 * variant, 10)
        else:
            del self.workers[job.id]
            self.leave(job, step)

    def leave(self, job: Job, step: str) -> None:
        match step:
            case "arrive":
                if self.queue.finishing(job, URL) and self.queue.done(job, job.fingerprint):
                    self.settled[job.folder, job.path] = job.fingerprint.mtime_ns
                else:
                    self.queue.release(job)
            case "release":
                self.queue.release(job)
            case "wait":
                self.queue.wait(job, "reset")
            case "fail":
                self.queue.fail(job, Reason.SOURCE, "no")
            case "restart":
                self.queue.restart(job, "expired")
            case "gone":
                self.queue.gone(job)
            case "changed":
                self.number += 1
                if self.queue.changed(job, change(job.path, self.number).fingerprint):
                    self.latest[job.folder, job.path] = self.number  # else a newer job will find it
            case "pause":
                self.queue.pause(job, Reason.ROOT_MISSING, "away")
            case "full":
                self.queue.pause(job, Reason.SERVER_FULL, "full")

    @rule(data=st.data(), wish=st.sampled_from(["pause", "resume", "retry", "cancel"]))
    def wish(self, data: st.DataObject, wish: str) -> None:
        """The user, about one job, a folder or everything."""
        ids = data.draw(st.lists(st.integers(1, max(1, len(self.seen))), max_size=2))
        folder = data.draw(st.sampled_from([None, *FOLDERS])) if not ids else None
        if wish == "pause":
            self.queue.pause_user(ids=ids, folder=folder)
        elif wish == "resume":
            self.queue.resume_user(ids=ids, folder=folder)
        elif wish == "retry":
            self.queue.retry(ids)
        else:
            self.queue.cancel(ids)

    @rule(folder=st.sampled_from(FOLDERS), path=st.sampled_from([*PATHS, b""]))
    def source_gone(self, folder: str, path: bytes) -> None:
        self.queue.source_gone(folder, path)

    @rule(folder=st.sampled_from(FOLDERS), missing=st.booleans())
    def root(self, folder: str, missing: bool) -> None:
        if missing:
            self.queue.root_missing(folder)
        else:
            self.queue.root_back(folder)

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        if held:
            self.queue.hold(Reason.NETWORK, "no route")
        else:
            self.queue.lift(Reason.NETWORK)

    @rule(seconds=st.sampled_from([1.0, 100.0]), step=st.sampled_from([0.0, -1e6, 1e6]))
    def time(self, seconds: float, step: float) -> None:
        self.clock.advance(seconds)
        self.clock.step_wall(step)

    @rule()
    def crash(self) -> None:
        """The process dies; the next one takes over."""
        self.queue.close()
        self.queue = open_queue(self.folder, self.clock)
        self.run += 1
        self.workers.clear()
        self.queue.recover(f"run-{self.run}")
        assert self.queue.running() == []

    @invariant()
    def the_table_is_true(self) -> None:
        if hasattr(self, "queue"):
            check_table(self.queue)

    @invariant()
    def moves_are_legal(self) -> None:
        """Every job goes only where the table of moves leads, be it in several steps; ended ones stay."""
        if not hasattr(self, "queue"):
            return
        for row in self.queue._tables.rows("SELECT id, state FROM jobs"):
            before, state = self.seen.get(row[0], State.QUEUED), State(row[1])
            assert before == state or before not in ENDED, f"{before} became {state}"
            assert state in reachable(before)
            self.seen[row[0]] = state

    @invariant()
    def no_version_is_lost(self) -> None:
        """The newest version of each path is open, or was sent, cancelled, or vanished."""
        if not hasattr(self, "queue"):
            return
        for (folder, path), number in self.latest.items():
            states = {
                job.state
                for job in [*self.queue.jobs(folder=folder), *self.queue.history(folder=folder)]
                if job.path == path and job.fingerprint.mtime_ns == number
            }
            assert states - {State.SUPERSEDED}, f"version {number} of {path!r} is gone"

    @invariant()
    def no_session_is_lost(self) -> None:
        """Every session ever opened is its job's still, or one to be ended."""
        if not hasattr(self, "queue"):
            return
        rows = self.queue._tables.rows("SELECT session_id FROM jobs UNION SELECT session_id FROM endings")
        assert self.sessions <= {row[0] for row in rows}


def reachable(state: State) -> set[State]:
    """Where a job may be after any number of moves."""
    found = {state}
    while more := {later for one in found for later in MOVES[one]} - found:
        found |= more
    return found


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
