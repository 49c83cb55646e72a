"""Watched folders that go away, come back, are another one, or more than the kernel can watch; the real programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunkyd.control.client import ControlClient
from tests.e2e.programs import wait_until
from tests.faults.mounts import disks
from tests.faults.stage import FILE, Stage

ROOT_MISSING = ("paused", "root-missing")


def shown(stage: Stage) -> set[tuple[str, str | None]]:
    """State and reason of every unfinished or failed job."""
    return {(state, reason) for _, state, reason, _ in stage.jobs()}


def wait_shown(stage: Stage, *wanted: tuple[str, str | None]) -> None:
    """Until the unfinished jobs are in these states, and in no other."""
    wait_until(f"{wanted}", lambda: shown(stage) == set(wanted), 30, lambda: f"{stage.jobs()}{stage.daemon.text()}")


def folder_state(stage: Stage, name: str = "outbox") -> str:
    """How the daemon says that a folder fares."""
    found = ControlClient(str(stage.daemon.socket)).status().folders
    return next(folder.state for folder in found if folder.name == name)


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
AWAY: list[Away] = [renamed, another, a_file, a_dangling_link, a_link_elsewhere]


@pytest.mark.parametrize("away", AWAY, ids=lambda away: away.__name__)
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
