"""A watched folder whose times lie two seconds apart, as on FAT, written to by others without any event, as on NFS.

There only size and mtime tell versions apart. A change that keeps the size, within the two seconds of the one before,
cannot be seen by any look: so nothing is read before they are over.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.control.client import ControlClient
from tests.e2e.programs import run, sha256, wait_until
from tests.faults.mounts import disks
from tests.faults.stage import FILE, MIB, Stage
from tests.faults.strict_disk import StrictDisk, strict_disk

GRAIN = 2 * 10**9
BIG = MIB + 1  # one that does not travel with others
SMALL = 1000


@contextlib.contextmanager
def far_folder(folder: Path) -> Iterator[tuple[Stage, StrictDisk]]:
    """A polled folder on such a disk, with a settle time that is much too short for it."""
    box = {"path": str(folder / "disk"), "name": "outbox", "poll": True, "settle": "300ms"}
    server = {"existing": "replace"}
    with strict_disk(folder / "disk") as disk, Stage(folder, box=box, server=server) as stage:
        disk.remote(GRAIN)
        stage.box.rmdir()
        stage.box = disk.path
        yield stage, disk


def put(stage: Stage, disk: StrictDisk, name: str, size: int) -> None:
    """Somebody else writes this file, with new content."""
    disk.put(name, os.urandom(size))
    stage.to_send += size


def wait_moment(moment: float) -> None:
    """Until so many of the two seconds have gone by in which all times are one."""
    wait_until("this moment", lambda: 0 <= time.time() % 2 - moment < 0.1, 5)


def look(stage: Stage) -> None:
    """A poll, now."""
    assert ControlClient(str(stage.daemon.socket)).rescan(wait=True, timeout=60).finished


@pytest.mark.parametrize("size", [SMALL, pytest.param(BIG, marks=pytest.mark.long)])
def test_changes_within_one_tick(tmp_path: Path, size: int) -> None:
    """Edited, grown, cut and replaced without a change of their time: what arrives is what is there in the end."""
    names = ("edited", "grown", "cut", "replaced")
    with far_folder(tmp_path) as (stage, disk):
        stage.start_server()
        stage.daemon.start()
        look(stage)
        wait_moment(0.1)
        for name in names:
            put(stage, disk, name, size)
        look(stage)
        wait_moment(1.5)
        before = [(disk.path / name).stat().st_mtime_ns for name in names]
        put(stage, disk, "edited", size)
        put(stage, disk, "grown", size + 10)
        put(stage, disk, "cut", size - 10)
        put(stage, disk, "beside.part", size)
        disk.move("beside.part", "replaced")
        assert [(disk.path / name).stat().st_mtime_ns for name in names] == before
        look(stage)
        stage.at_rest()


@pytest.mark.long
def test_changes_after_it_has_arrived(tmp_path: Path) -> None:
    """A later edit of the same size has another time, and is found by the polls that are made anyway."""
    with far_folder(tmp_path) as (stage, disk):
        put(stage, disk, "film.mov", BIG)
        stage.arrive()
        put(stage, disk, "film.mov", BIG)
        stage.at_rest()


@pytest.mark.long
def test_changed_while_it_is_sent(tmp_path: Path) -> None:
    """A version found while an older one is sent is not read either before its two seconds are over."""
    with far_folder(tmp_path) as (stage, disk):
        put(stage, disk, "film.mov", BIG)
        stage.start_server()
        stage.daemon.arm("upload.hash.taken=stop,upload.complete.heard=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        wait_moment(0.1)
        put(stage, disk, "film.mov", BIG + 1)
        wait_moment(0.6)  # by its own times it has settled now, and may still change without a trace
        stage.daemon.go_on()
        stage.daemon.wait_ready()
        stage.daemon.wait_stopped()
        put(stage, disk, "film.mov", BIG + 1)
        stage.daemon.go_on()
        stage.daemon.wait_ready()
        stage.at_rest(states=("done", "superseded"))


@pytest.mark.long
def test_chunky_between_two_edits(tmp_path: Path) -> None:
    """`chunky upload` remembers no hash of a file that may still change without its time: run again, it reads anew."""
    with far_folder(tmp_path) as (stage, disk):
        stage.start_server()
        film = disk.path / "film.mov"
        command = ("chunky", "upload", "--to", stage.server.url, "--state", str(tmp_path / "memory"), str(film))
        for _ in range(5):
            wait_moment(0.0)
            put(stage, disk, "film.mov", FILE)
            before = film.stat().st_mtime_ns
            run(*command)
            put(stage, disk, "film.mov", FILE)
            if film.stat().st_mtime_ns == before:
                break
        else:
            pytest.skip("an upload takes this machine two seconds")
        run(*command)
        assert sha256(stage.server.files() / "film.mov") == sha256(film)


@pytest.mark.parametrize("policy", ["delete", pytest.param("keep", marks=pytest.mark.long)])
def test_times_of_whole_seconds(tmp_path: Path, policy: str) -> None:
    """A second edit of the same size within one second, on a real disk without finer times: it is what arrives."""
    with disks(tmp_path) as made, Stage(tmp_path, box={"after_upload": policy, "settle": "50ms"}) as stage:
        made.plug(made.image("ext4", "small-inodes", options=("-I", "128")), stage.box)
        stage.start_server()
        stage.daemon.start()
        path, arrived = stage.box / "file", stage.server.files() / "outbox" / "file"
        time.sleep(1.02 - time.time() % 1)
        path.write_bytes(b"version1")
        time.sleep(0.5)
        assert path.stat().st_ctime_ns % 1_000_000_000 == 0
        with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
            file.write(b"version2")
        wait_until("the last version arrives", lambda: arrived.exists() and arrived.read_bytes() == b"version2", 30)
        wait_until("it is deleted, or kept", lambda: path.exists() == (policy == "keep"), 30)


@pytest.mark.parametrize("policy", ["delete", pytest.param("move", marks=pytest.mark.long)])
def test_the_same_file_once_more_after_it_was_deleted(tmp_path: Path, policy: str) -> None:
    """A file of the name, size and time of one that was sent and is gone: another file, which goes the same way."""
    after: object = "delete" if policy == "delete" else {"move": str(tmp_path / "aside")}
    with strict_disk(tmp_path / "disk") as disk:
        box = {"path": str(disk.path), "name": "outbox", "after_upload": after, "rescan": "1s"}
        with Stage(tmp_path, box=box, server={"existing": "replace"}) as stage:
            stage.start_server()
            stage.daemon.start()
            for content in (b"first", b"other"):
                beside = tmp_path / "being-made"
                beside.write_bytes(content)
                os.utime(beside, (1_700_000_000, 1_700_000_000))
                shutil.copy2(beside, disk.path / "film.mov")
                wait_until("it is gone", lambda: not (disk.path / "film.mov").exists(), 30, stage.daemon.text)
                wait_until("no job is left", lambda: not stage.jobs(), 30, stage.daemon.text)
                assert (stage.server.files() / "outbox" / "film.mov").read_bytes() == content
