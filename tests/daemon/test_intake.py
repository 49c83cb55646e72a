"""Hints that files went away: which jobs are given up, and what looking costs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.clock import ManualClock
from chunkyd.daemon.folders import Folders
from chunkyd.daemon.homes import Homes
from chunkyd.daemon.intake import Intake
from chunkyd.daemon.whereabouts import Whereabouts
from chunkyd.files import fingerprint
from chunkyd.jobs.job import Job
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import State
from chunkyd.settings import Folder
from chunkyd.watch.shapes import Settled
from tests.jobs.shared import open_queue

FOLDER = "box"


class Place:
    """A watched folder, its queue and its intake."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        state = folder / "state"
        state.mkdir()
        self.clock = clock = ManualClock()
        self.queue: Queue = open_queue(state, clock)
        self.folders = Folders([Folder(path=str(self.root), name=FOLDER)])
        homes = Homes(str(state), self.queue.last_number)
        self.whereabouts = Whereabouts(self.queue, self.folders, homes, clock)
        self.intake = Intake(self.queue, self.folders, homes, self.whereabouts)

    def put(self, *names: str) -> None:
        """Files that have settled."""
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        found = [(name.encode(), fingerprint(os.lstat(self.root / name))) for name in names]
        self.intake.settled([Settled(FOLDER, path, version) for path, version in found])

    def replace_root(self) -> None:
        """Another folder in the root's place; the first one is kept beside it."""
        self.root.rename(self.root.with_name(f"was-{self.root.stat().st_ino}"))
        self.root.mkdir()

    @property
    def elsewhere(self) -> Path:
        """Where the root is while it is away."""
        return self.root.with_name("elsewhere")

    def take_away(self) -> None:
        """The root is not there."""
        self.root.rename(self.elsewhere)

    def bring_back(self) -> None:
        """It is there again."""
        self.elsewhere.rename(self.root)

    def waiting(self) -> set[bytes]:
        """The paths of the jobs that are still to be sent."""
        return {job.path for job in self.queue.unfinished(FOLDER, limit=5000)}

    def statements(self, work: Iterator[None]) -> list[int]:
        """How many statements each step of this work takes."""
        seen: list[str] = []
        self.queue._tables.connection().set_trace_callback(seen.append)
        numbers = []
        for _ in work:
            numbers.append(len(seen))
            seen.clear()
        self.queue._tables.connection().set_trace_callback(None)
        return numbers


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.queue.close()


def test_only_what_is_gone_is_given_up(place: Place) -> None:
    """A file, and a folder with all below it; what has a like name stays."""
    place.put("a", "d/a", "d/b/c", "d.x", "d0/a")
    (place.root / "a").unlink()
    place.intake.gone(FOLDER, b"a")
    place.intake.gone(FOLDER, b"d/a")  # a hint that is no longer true
    assert place.waiting() == {b"d/a", b"d/b/c", b"d.x", b"d0/a"}
    (place.root / "d").rename(place.root.parent / "elsewhere")
    place.intake.gone(FOLDER, b"d")
    assert place.waiting() == {b"d.x", b"d0/a"}
    assert [job.state for job in place.queue.history()] == [State.CANCELLED] * 3


def test_a_file_of_another_root_is_not_given_up(place: Place) -> None:
    """A hint is about the root that is there: jobs found under the one before it wait for its return."""
    place.put("old", "d/old")
    place.replace_root()
    place.put("new", "d/new")
    (place.root / "new").unlink()
    (place.root / "d" / "new").unlink()
    (place.root / "d").rmdir()
    for path in (b"new", b"old", b"d"):
        place.intake.gone(FOLDER, path)
    assert place.waiting() == {b"old", b"d/old"}


@pytest.mark.parametrize("homes", [1, 2])
def test_a_deletion_costs_the_same_among_many(place: Place, homes: int) -> None:
    """However many jobs there are, and whether or not the folder has had another root."""
    if homes == 2:
        place.put("before")
        place.replace_root()

    def deleted(names: list[str]) -> Iterator[None]:
        for name in names:
            (place.root / name).unlink()
            place.intake.gone(FOLDER, name.encode())
            yield

    few = [f"few/{number}" for number in range(10)]
    place.put(*few)
    costs = place.statements(deleted(few))
    many = [f"many/{number}" for number in range(1000)]
    place.put(*many)
    assert set(place.statements(deleted(many[:10]))) == set(costs)
    assert len(place.waiting()) == 990 + (homes - 1)


def claimed(place: Place) -> Job:
    """The job, with a worker."""
    job = place.queue.claim("run", [FOLDER])
    assert job is not None
    return job


def test_a_file_that_was_missed_under_another_root_is_not_given_up(place: Place) -> None:
    """The root was away when a worker missed its file, and is back when that is judged: the job goes on a little later.

    Not at once: a file that can be seen and not opened, as on a server of NFS that is out of step, would be tried
    without pause.
    """
    place.put("a")
    job = claimed(place)
    for attempt in range(3):
        place.whereabouts.end_or_hold(job)
        assert place.waiting() == {b"a"} and place.queue.claim("run", [FOLDER]) is None, attempt
        place.clock.advance(600)
        assert claimed(place).id == job.id
        job = place.queue.job(job.id) or job
    place.root.joinpath("a").unlink()
    place.whereabouts.end_or_hold(job)
    assert place.waiting() == set()


def test_a_root_that_goes_while_its_file_is_looked_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at the file is worth nothing then: the job waits for its folder, and goes on when that is back."""
    place.put("a")
    job = claimed(place)
    is_there = place.whereabouts._is_there

    def look(job: Job) -> bool:
        if place.root.exists():
            place.take_away()
        return is_there(job)

    monkeypatch.setattr(place.whereabouts, "_is_there", look)
    place.whereabouts.end_or_hold(job)  # it was there just before: whether it is back a worker sees
    place.whereabouts.end_or_hold(claimed(place))
    assert place.waiting() == {b"a"} and place.queue.claim("run", [FOLDER]) is None
    place.bring_back()
    place.whereabouts.look()
    assert claimed(place).id == job.id


@pytest.mark.parametrize("path", [b"a", b"day"])
def test_a_hint_about_another_root(place: Place, monkeypatch: pytest.MonkeyPatch, path: bytes) -> None:
    """A file, or all of a folder, is missed while the root is away, and the root is back when that is judged."""
    place.put("a", "day/b", "day/c")
    place.take_away()
    has_folder = place.folders.has_folder

    def look(name: str, path: bytes) -> bool:
        found = has_folder(name, path)
        if place.elsewhere.exists():
            place.bring_back()
        return found

    monkeypatch.setattr(place.folders, "has_folder", look)
    place.intake.gone(FOLDER, path)
    assert place.root.exists()
    assert place.waiting() == {b"a", b"day/b", b"day/c"}
