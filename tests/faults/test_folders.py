"""Watched folders that go away, come back, are another one, or more than the kernel can watch; the real programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunkyd.control.base import Selection
from chunkyd.control.client import ControlClient
from tests.e2e.programs import tree, wait_until
from tests.faults.mounts import disks
from tests.faults.stage import FILE, MIB, Stage

ROOT_MISSING = ("paused", "root-missing")


def shown(stage: Stage) -> set[tuple[str, str | None]]:
    """State and reason of every unfinished or failed job."""
    return {(state, reason) for _, state, reason, _ in stage.jobs()}


def wait_shown(stage: Stage, *wanted: tuple[str, str | None]) -> None:
    """Until the unfinished jobs are in these states, and in no other."""
    wait_until(f"{wanted}", lambda: shown(stage) == set(wanted), 30, lambda: f"{stage.jobs()}{stage.daemon.text()}")


def problem(stage: Stage) -> str:
    """What is wrong with the folder, as the daemon says."""
    (folder,) = ControlClient(str(stage.daemon.socket)).status().folders
    return folder.problem or ""


def history(stage: Stage) -> list[tuple[str, str, str | None]]:
    """Path, state and reason of the jobs that have ended."""
    return [(job.path, job.state, job.reason) for job in ControlClient(str(stage.daemon.socket)).history().jobs]


def write(stage: Stage, name: str, content: bytes) -> Path:
    """A file in the watched folder, on whatever disk that is."""
    path = stage.box / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    stage.to_send += len(content)
    return path


# Each takes the root away, and puts it back.


@contextlib.contextmanager
def renamed(box: Path) -> Iterator[None]:
    """Under another name."""
    box.rename(box.parent / "aside")
    yield
    (box.parent / "aside").rename(box)


@contextlib.contextmanager
def another(box: Path) -> Iterator[None]:
    """Renamed, and an empty one made in its place."""
    with renamed(box):
        box.mkdir()
        yield
        box.rmdir()


@contextlib.contextmanager
def a_file(box: Path) -> Iterator[None]:
    """Renamed, and a file written in its place."""
    with renamed(box):
        box.write_bytes(b"this is no folder")
        yield
        box.unlink()


@contextlib.contextmanager
def a_dangling_link(box: Path) -> Iterator[None]:
    """Renamed, and a link to nowhere in its place."""
    with renamed(box):
        box.symlink_to(box.parent / "nowhere")
        yield
        box.unlink()


@contextlib.contextmanager
def a_link_elsewhere(box: Path) -> Iterator[None]:
    """Renamed, and a link to another, empty folder in its place."""
    with renamed(box):
        other = box.parent / "other"
        other.mkdir()
        box.symlink_to(other)
        yield
        box.unlink()


Away = Callable[[Path], contextlib.AbstractContextManager[None]]
AWAY: list[Away] = [renamed, another, a_link_elsewhere]
AWAY_TOO: list[Away] = [a_file, a_dangling_link]


@pytest.mark.parametrize(
    "away", [*AWAY, *(pytest.param(away, marks=pytest.mark.long) for away in AWAY_TOO)], ids=lambda away: away.__name__
)
def test_a_root_that_is_away_while_files_are_sent(tmp_path: Path, away: Away) -> None:
    """Jobs under way and queued are held as root-missing while the root is away or another; then all arrive."""
    with Stage(tmp_path) as stage:
        for number in range(4):
            stage.put(f"day/{number}.mov")
        stage.start_server()
        stage.daemon.arm("upload.chunk.stored:2=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        with away(stage.box):
            stage.daemon.go_on()
            stage.daemon.wait_ready()
            wait_shown(stage, ROOT_MISSING)
            assert history(stage) == []
            stage.daemon.stop()
            stage.daemon.arm(None)
            stage.daemon.start()
            wait_shown(stage, ROOT_MISSING)
        stage.to_send += 2 * FILE  # those under way may have begun anew: hashing ended when the root went
        stage.at_rest()


def test_a_disk_that_is_pulled_during_a_scan(tmp_path: Path) -> None:
    """A root that is unmounted while it is scanned is missing, its found files are held; remounted, all arrive."""
    with disks(tmp_path) as hardware, Stage(tmp_path) as stage:
        disk = hardware.disk()
        hardware.plug(disk, stage.box)
        for number in range(300):
            write(stage, f"{number % 50}/{number}.txt", b"%d" % number)
        stage.start_server()
        stage.daemon.arm("jobs.offered=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        hardware.pull(stage.box)
        stage.daemon.go_on()
        stage.daemon.wait_ready()
        wait_shown(stage, ROOT_MISSING)
        assert {state for _, state, _ in history(stage)} <= {"done"}
        hardware.plug(disk, stage.box)
        stage.at_rest()


MANY, BELOW = 1500, 500  # so many that the first of them are queued while the scan goes on


@contextlib.contextmanager
def in_a_scan(stage: Stage) -> Iterator[int]:
    """The daemon stands still in the middle of its first scan; how many files it has queued. Then it goes on."""
    for number in range(MANY):
        write(stage, f"{number % BELOW}/{number}.txt", b"%d" % number)
    stage.start_server()
    stage.daemon.arm("jobs.offered=stop")
    stage.daemon.begin()
    stage.daemon.wait_stopped()
    queued = len(recorded(stage))
    assert 0 < queued < MANY * 0.9, "the scan is over, or has not begun"
    yield queued
    stage.daemon.go_on()
    stage.daemon.wait_ready()


def recorded(stage: Stage) -> list[tuple[str, str, str | None]]:
    """Path, state and reason of every job there ever was."""
    with contextlib.closing(sqlite3.connect(f"file:{stage.daemon.state}/jobs.sqlite3?mode=ro", uri=True)) as rows:
        found = rows.execute("SELECT directory, name, state, reason FROM jobs").fetchall()
    return [(os.fsdecode(directory + b"/" + name), state, reason) for directory, name, state, reason in found]


@pytest.mark.long
@pytest.mark.parametrize("poll", [False, True])
@pytest.mark.parametrize("away", [*AWAY, a_file], ids=lambda away: away.__name__)
def test_a_root_that_goes_away_during_a_scan(tmp_path: Path, away: Away, poll: bool) -> None:
    """What the scan has found is held, nothing counts as deleted; back, all arrives, but what was deleted meanwhile.

    What was deleted of the files that were queued before is given up.
    """
    with Stage(tmp_path, box={"poll": poll}) as stage:
        with contextlib.ExitStack() as gone:
            with in_a_scan(stage):
                gone.enter_context(away(stage.box))
            wait_shown(stage, ROOT_MISSING)
            held = {job[0] for job in stage.jobs()}
            assert {state for _, state, _ in recorded(stage)} <= {"queued", "paused", "done"}
            deleted = sorted(held)[::2]
            for path in deleted:
                (stage.box.parent / "aside" / path).unlink()
        stage.at_rest(states=("done", "cancelled"))
        assert {path for path, state, _ in recorded(stage) if state == "cancelled"} == set(deleted)


@pytest.mark.parametrize("poll", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_root_that_is_emptied_during_a_scan(tmp_path: Path, poll: bool) -> None:
    """What was found and is deleted before the scan ends is given up; what is left arrives, and what comes later."""
    with Stage(tmp_path, box={"poll": poll}) as stage:
        with in_a_scan(stage) as queued:
            for folder in stage.box.iterdir():
                if folder.name != "7":
                    shutil.rmtree(folder)
        stage.at_rest(states=("done", "cancelled"))
        ended = recorded(stage)
        assert {(state, reason) for _, state, reason in ended} <= {("done", None), ("cancelled", "source-gone")}
        assert {path.partition("/")[0] for path, state, _ in ended if state == "done"} == {"7"}
        assert len([path for path, state, _ in ended if state == "cancelled"]) >= queued - MANY // BELOW
        write(stage, "8/8.txt", b"again")
        stage.at_rest(states=("done", "cancelled"))


def test_a_disk_that_blinks(tmp_path: Path) -> None:
    """A disk that is away so briefly that only a worker misses its file: its jobs go on without a word from anyone."""
    with disks(tmp_path) as hardware, Stage(tmp_path) as stage:
        disk = hardware.disk()
        hardware.plug(disk, stage.box)
        for number in range(3):
            write(stage, f"{number}.mov", os.urandom(2 * MIB))
        stage.start_server()
        stage.daemon.arm("jobs.claimed=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        hardware.pull(stage.box)
        stage.daemon.go_on()
        stage.daemon.wait_ready()
        wait_until("a worker misses its file", lambda: ROOT_MISSING in shown(stage), 20, stage.daemon.text)
        hardware.plug(disk, stage.box)
        stage.at_rest()


def test_a_disk_below_the_root(tmp_path: Path) -> None:
    """Files on a disk mounted in the watched folder are held while it is away, over a restart too.

    What is really deleted, there and beside it, is given up all the same.
    """
    with disks(tmp_path) as hardware, Stage(tmp_path) as stage:
        disk, point = hardware.disk(), stage.box / "card"
        point.mkdir()
        hardware.plug(disk, point)
        stage.start_server()
        stage.daemon.start()
        stage.daemon.ctl("pause")
        for name in ("card/1.mov", "card/2.mov", "card/deleted", "beside", "beside-deleted"):
            write(stage, name, os.urandom(MIB + 1))
        wait_until("all are queued", lambda: len(stage.jobs()) == 5, 20, stage.daemon.text)
        (point / "deleted").unlink()
        (stage.box / "beside-deleted").unlink()
        wait_until("what is deleted is given up", lambda: len(stage.jobs()) == 3, 20, stage.daemon.text)
        hardware.pull(point)
        rescan(stage)
        assert len(stage.jobs()) == 3
        ControlClient(str(stage.daemon.socket)).resume(Selection())
        wait_shown(stage, ROOT_MISSING)
        stage.daemon.stop()
        stage.daemon.start()
        rescan(stage)
        wait_shown(stage, ROOT_MISSING)
        hardware.plug(disk, point)
        stage.at_rest(states=("done", "cancelled"))
        assert {path for path, state, _ in history(stage) if state == "cancelled"} == {"card/deleted", "beside-deleted"}


def rescan(stage: Stage) -> None:
    """A whole scan, to its end."""
    assert ControlClient(str(stage.daemon.socket)).rescan(wait=True, timeout=60).finished


def test_a_root_that_is_emptied_while_files_are_sent(tmp_path: Path) -> None:
    """What is deleted is given up, what has arrived stays at the server, and the same names later are sent anew."""
    with Stage(tmp_path) as stage:
        stage.put("first", 1000)
        stage.arrive(stop="daemon")
        before = stage.published()
        for number in range(3):
            stage.put(f"day/{number}.mov")
        stage.daemon.arm("upload.chunk.stored:2=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        shutil.rmtree(stage.box / "day")
        (stage.box / "first").unlink()
        stage.daemon.go_on()
        stage.daemon.wait_ready()
        stage.at_rest(before, states=("done", "cancelled"))
        stage.put("day/0.mov")
        wait_until("it has arrived", lambda: stage.published().keys() == {*before, b"day/0.mov"}, 30, stage.daemon.text)


def test_a_root_deleted_and_made_again(tmp_path: Path) -> None:
    """A root that is removed with all in it is missing, not emptied; one made in its place is watched at once."""
    with Stage(tmp_path) as stage:
        stage.start_server()
        stage.daemon.start()
        stage.daemon.ctl("pause")
        stage.put("day/1.mov")
        wait_shown(stage, ("paused", "user"))
        os.kill(stage.daemon.pid, signal.SIGSTOP)  # else it may see the file go before its folder does
        shutil.rmtree(stage.box)
        stage.daemon.go_on()
        wait_until("it is missing", lambda: "cannot be reached" in problem(stage), 20, stage.daemon.text)
        assert len(stage.jobs()) == 1
        stage.box.mkdir()
        ControlClient(str(stage.daemon.socket)).resume(Selection())
        stage.put("day/2.mov", 1000)
        wait_until("the new file arrives", lambda: b"day/2.mov" in stage.published(), 20, stage.daemon.text)
        # Where the new folder has the old one's inode the old one is certainly no more, nor what was in it.
        wait_until("the rest is known", lambda: shown(stage) <= {ROOT_MISSING}, 20, stage.daemon.text)
        for job in stage.daemon.jobs():
            stage.daemon.ctl("cancel", str(job["id"]))
        stage.at_rest(states=("done", "cancelled"))


def test_a_folder_moved_between_two_roots(tmp_path: Path) -> None:
    """A folder that moves to another root while it is sent arrives there whole; nothing is left of its first jobs."""
    with Stage(tmp_path) as stage:
        other = tmp_path / "second"
        other.mkdir()
        stage.daemon.settings["folders"].append({"path": str(other), "settle": "300ms"})
        stage.daemon.write_config()
        for number in range(4):
            stage.put(f"day/{number}.mov")
        stage.put("beside", 1000)
        content = tree(stage.box / "day")
        stage.start_server()
        stage.daemon.arm("upload.chunk.stored:2=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        (stage.box / "day").rename(other / "day")
        stage.daemon.go_on()
        stage.daemon.wait_ready()
        there = stage.server.files() / "second" / "day"
        wait_until("the folder has arrived", lambda: tree(there) == content, 40, stage.daemon.text)
        stage.to_send *= 2  # a file that is found gone while it is sent is sent anew from its new place
        wait_until("no job is left", lambda: not stage.jobs(), 40, stage.daemon.text)
        stage.server_at_rest()
        ended = {(state, reason) for _, state, reason in history(stage)}
        assert ended <= {("done", None), ("cancelled", "source-gone")}
        assert stage.published() == {b"beside": tree(stage.box)[b"beside"]}


def test_more_events_than_the_kernel_keeps(tmp_path: Path) -> None:
    """An event queue that overflows, while the daemon stands still, loses no file: the folder is scanned."""
    with Stage(tmp_path) as stage:
        stage.put("first", 1)
        stage.arrive()
        limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
        if limit > 100_000:
            pytest.skip(f"fs.inotify.max_queued_events is {limit}: too many to fill")
        os.kill(stage.daemon.pid, signal.SIGSTOP)
        for number in range(limit // 2 + 100):  # made and deleted: two events, which the kernel does not join
            (stage.box / f"{number % 10}.part").touch()
            (stage.box / f"{number % 10}.part").unlink()
        for number in range(20):
            stage.put(f"after/{number}", 1000 + number)
        stage.daemon.go_on()
        stage.at_rest()


def test_more_folders_than_may_be_watched(tmp_path: Path) -> None:
    """Where the watch limit is reached, status names the sysctl; files in every folder arrive all the same."""
    with Stage(tmp_path) as stage:
        few_watches(stage, 40)
        for number in range(80):
            stage.put(f"{number}/first", 10 + number)
        stage.arrive()
        status = ControlClient(str(stage.daemon.socket)).status()
        assert status.state == "degraded"
        (problem,) = status.problems
        assert "41 of 81 directories cannot be watched" in problem.what
        assert "fs.inotify.max_user_watches" in problem.mend
        for number in range(80):
            stage.put(f"{number}/second", 10 + number)
        stage.at_rest()


def few_watches(stage: Stage, number: int) -> None:
    """The daemon runs in a user namespace of its own, which may have so many watches."""
    limit = "/proc/sys/user/max_inotify_watches"
    command = f'echo {number} > {limit} && exec "$@"'
    probe = ["unshare", "--user", "--map-root-user", "sh", "-c", command, "-", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("a user namespace with a watch limit of its own cannot be had here")
    stage.daemon._command = [*probe[:-1], *stage.daemon._command]
