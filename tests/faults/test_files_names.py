"""Names and paths that are too long: for a system call, for the protocol, or for the server's file system."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from chunkyd.files import open_below
from tests.e2e.programs import Daemon, Server, running, wait_until
from tests.faults.stage import MIB, Stage
from tests.faults.strict_disk import strict_disk

BIG = MIB + 1  # one that does not travel with others


def deep(length: int, name: bytes) -> bytes:
    """A path of this length, in folders of names as long as can be."""
    parts = []
    left = length - len(name)
    while left > 0:
        part = min(200, left - 1)
        parts.append(b"d" * max(part, 1))
        left -= part + 1
    return b"/".join([*parts, name])


def write_deep(root: Path, path: bytes, size: int) -> bytes:
    """A file below the root, whatever the length of its path, step by step; its content."""
    content = os.urandom(size)
    *folders, name = path.split(b"/")
    folder = os.open(root, os.O_RDONLY)
    try:
        for part in folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=folder)
            deeper = os.open(part, os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = deeper
        with open(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=folder), "wb") as file:
            file.write(content)
    finally:
        os.close(folder)
    return content


def read_deep(root: Path, path: bytes) -> bytes | None:
    """What is there; None where nothing is."""
    try:
        with open(open_below(os.fsencode(root), path, os.O_RDONLY), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def wait_failed(stage: Stage, name: str, words: str) -> None:
    """Until the job of this file, the only one that is left, has failed and says this."""

    def failed() -> bool:
        found = [(path.rpartition("/")[2], state, words in (error or "")) for path, state, _, error in stage.jobs()]
        return found == [(name, "failed", True)]

    wait_until(words, failed, 30, lambda: f"{stage.jobs()}{stage.daemon.text()[-3000:]}")


@pytest.mark.parametrize("told", ["by a scan", "by events"])
@pytest.mark.parametrize("size", [100, pytest.param(BIG, marks=pytest.mark.long)])
def test_a_path_longer_than_a_call_takes(tmp_path: Path, size: int, told: str) -> None:
    """A file whose path on this machine is too long for a call arrives; one whose published path is too long for the
    protocol fails for good, and says what to do. The same below a shorter name arrives.
    """
    with Stage(tmp_path) as stage:
        try:
            stage.start_server()
            if told == "by events":
                stage.daemon.start()
                stage.daemon.ctl("rescan", "--wait")
            fits, long = deep(4070, b"fits"), deep(4200, b"long")
            assert len(os.fsencode(stage.box) + fits) > 4096 > len(b"outbox/" + fits)
            content = write_deep(stage.box, fits, size)
            lost = write_deep(stage.box, long, size)
            stage.put("beside", size)
            stage.start_daemon()
            words = "4207 bytes; 4096 are allowed. Give the file, or a folder above it, a shorter name."
            there = stage.server.files() / "outbox"
            wait_until("the others arrive", lambda: (there / "beside").exists() and read_deep(there, fits), 30)
            wait_failed(stage, "long", words)
            assert (there / "beside").read_bytes() == (stage.box / "beside").read_bytes()
            assert read_deep(there, fits) == content
            assert "cannot be read" not in str(stage.daemon.ctl("status")["problems"])
            assert "was there already" not in stage.daemon.text()  # as if it had not been seen to arrive
            os.rename(stage.box / ("d" * 200), stage.box / "d")
            short = b"d" + long[200:]
            wait_until("it arrives", lambda: read_deep(there, short) == lost, 30, stage.daemon.text)
            wait_until("no job is left", lambda: not stage.jobs(), 30, lambda: str(stage.jobs()))
            stage.server_at_rest()
        finally:
            shutil.rmtree(stage.box)
            shutil.rmtree(stage.server.data)


@pytest.mark.parametrize("size", [pytest.param(100, marks=pytest.mark.long), BIG])
def test_a_name_longer_than_the_server_takes(tmp_path: Path, size: int) -> None:
    """A file whose name is too long for the server's file system fails and says so, others arrive; renamed, it too."""
    with strict_disk(tmp_path / "disk") as disk, Stage(tmp_path, server={"data_dir": disk.path / "data"}) as stage:
        disk.names(143)
        name = "n" * 200
        stage.put(f"day/{name}", size)
        stage.put("day/beside", size)
        stage.put("m" * 143, size)
        stage.start_server()
        stage.daemon.start()
        wait_failed(stage, name, "it is too long there, or has characters it lacks. Rename the file.")
        assert stage.published().keys() == {b"day/beside", b"m" * 143}
        (stage.box / "day" / name).rename(stage.box / "day" / "short")
        stage.to_send *= 2
        stage.at_rest(states=("done", "cancelled"))


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    """It is watched and sent like any other, also after a restart; chunkyctl shows it, and takes its name as shown."""
    box = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    box.mkdir()
    server = Server(tmp_path)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    arrived = server.files() / box.name
    with running(server, daemon):
        (box / "one").write_bytes(b"1")
        wait_until("it arrives", (arrived / "one").exists, 30, daemon.text)
        (folder,) = daemon.ctl("status")["folders"]
        assert folder["name"] == "caf\\udce9"
        assert daemon.ctl("rescan", folder["name"], "--wait")["finished"]
        daemon.ctl("pause", "--folder", folder["name"])
        (box / "two").write_bytes(b"2")
        wait_until("it is paused", lambda: daemon.ctl("list", "--folder", box.name)["jobs"], 30, daemon.text)
        daemon.stop()
        assert daemon.ctl("list")["jobs"][0]["folder"] == folder["name"]
        daemon.start()
        daemon.ctl("resume", "--folder", folder["name"])
        wait_until("it arrives", (arrived / "two").exists, 30, daemon.text)
        assert {job["folder"] for job in daemon.ctl("history")["jobs"]} == {folder["name"]}
    assert "Traceback" not in daemon.text()
