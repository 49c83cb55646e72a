"""Files and folders that cannot be read for a while: said with what helps, and sent by themselves when they can be."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from chunkyd.control.client import ControlClient
from tests.e2e.programs import wait_until
from tests.faults.stage import FILE, Stage
from tests.faults.strict_disk import strict_disk

OPEN = {"box": {"settle": "100ms"}}


def without_privilege(stage: Stage) -> None:
    """The daemon may read only what its user may, root or not."""
    if os.geteuid() != 0:
        return
    if shutil.which("setpriv") is None:
        pytest.skip("taking a capability away needs setpriv")
    taken = "-dac_override,-dac_read_search,-fowner"
    stage.daemon._command = ["setpriv", "--bounding-set", taken, "--inh-caps", taken, *stage.daemon._command]


def troubles(stage: Stage) -> list[tuple[str, str, str | None]]:
    """Path, state and reason of what has not arrived."""
    return [(path, state, reason) for path, state, reason, _ in stage.jobs()]


def wait_told(stage: Stage, path: str, why: str) -> None:
    """Until the job of this path says why it does not go on."""

    def told() -> bool:
        return any(each == path and why in (error or "") for each, _, _, error in stage.jobs())

    wait_until(f"{path}: {why}", told, 30, lambda: f"{stage.jobs()}{stage.daemon.text()}")


def wait_problem(stage: Stage, words: str) -> None:
    """Until the status says this of the folder, and what helps."""

    def said() -> bool:
        status = ControlClient(str(stage.daemon.socket)).status()
        return any(words in problem.what and problem.mend for problem in status.problems)

    wait_until(words, said, 30, stage.daemon.text)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """It is named with what helps while all others arrive, and arrives when it may be read."""
    with Stage(tmp_path, **OPEN) as stage:
        without_privilege(stage)
        stage.put("big.mov").chmod(0)
        stage.put("small", 100).chmod(0)
        stage.put("open.mov")
        stage.start_server()
        stage.daemon.start()
        for name in ("big.mov", "small"):
            wait_told(stage, name, "Permission denied")
        wait_until("the other arrives", lambda: b"open.mov" in stage.published(), 30, stage.daemon.text)
        held = {(name, "paused", "source") for name in ("big.mov", "small")}
        wait_until("both are held", lambda: set(troubles(stage)) == held, 30, lambda: str(stage.jobs()))
        for name in ("big.mov", "small"):
            (stage.box / name).chmod(0o644)
        stage.at_rest(states=("done", "superseded"))


@pytest.mark.parametrize("phase", ["jobs.claimed", "upload.hash.taken", "upload.chunk.stored:2"])
def test_a_folder_that_may_not_be_entered_for_a_while(tmp_path: Path, phase: str) -> None:
    """The files in it are not taken for deleted; they wait, and go on by themselves though no file has changed."""
    with Stage(tmp_path, **OPEN) as stage:
        without_privilege(stage)
        stage.put("day/film.mov")
        stage.put("day/small", 100)
        stage.put("beside", 10)
        stage.start_server()
        stage.daemon.arm(f"{phase}=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        (stage.box / "day").chmod(0)
        try:
            stage.daemon.go_on()
            stage.daemon.wait_ready()
            wait_told(stage, "day/film.mov", "Permission denied")
            stage.daemon.ctl("rescan", "--wait")
            wait_problem(stage, "Permission denied")
            assert "day/film.mov" in {path for path, _, _ in troubles(stage)}
            assert b"beside" in stage.published()
        finally:
            (stage.box / "day").chmod(0o755)
        stage.to_send += FILE  # a hash that could not be finished may be taken anew
        stage.at_rest()
        wait_until("nothing is said any more", lambda: not stage.daemon.ctl("status")["problems"], 30)


def test_a_root_that_may_not_be_read_for_a_while(tmp_path: Path) -> None:
    """From the start on: said as what it is; readable again, it is taken up without a rescan, and watched."""
    with Stage(tmp_path, **OPEN) as stage:
        without_privilege(stage)
        stage.put("first", 10)
        stage.start_server()
        stage.box.chmod(0)
        try:
            stage.daemon.start()
            wait_problem(stage, "Permission denied")
            assert ControlClient(str(stage.daemon.socket)).status().folders[0].state == "degraded"
        finally:
            stage.box.chmod(0o755)
        stage.at_rest(seconds=20)
        stage.put("second", 10)
        stage.at_rest()


def test_a_file_in_a_folder_that_closes_while_it_settles(tmp_path: Path) -> None:
    """A file that could not be looked at when its time came is looked at again, and arrives."""
    with Stage(tmp_path, box={"settle": "2s"}) as stage:
        without_privilege(stage)
        (stage.box / "day").mkdir()
        stage.start_server()
        stage.daemon.start()
        stage.daemon.ctl("rescan", "--wait")
        stage.put("day/new", 100)
        (stage.box / "day").chmod(0)
        try:
            wait_problem(stage, "Permission denied")
        finally:
            (stage.box / "day").chmod(0o755)
        stage.at_rest()


def test_read_errors(tmp_path: Path) -> None:
    """A file of which the disk gives only errors is named and tried ever more rarely, others arrive; mended, it too."""
    with strict_disk(tmp_path / "disk") as disk, Stage(tmp_path, box={"path": str(disk.path), "settle": "1s"}) as stage:
        stage.box.rmdir()
        stage.box = disk.path
        disk.fail("read", errno.EIO, "*bad*")
        for name, size in (("bad.mov", FILE), ("bad-small", 100), ("good", 100)):
            (disk.path / name).write_bytes(os.urandom(size))
            stage.to_send += size
        stage.start_server()
        stage.daemon.start()
        for name in ("bad.mov", "bad-small"):
            wait_told(stage, name, "Input/output error")
        there = stage.server.files() / "disk"
        wait_until("the other arrives", (there / "good").exists, 30, stage.daemon.text)
        assert [path.name for path in there.iterdir()] == ["good"]
        disk.mend()
        wait_until("all arrive", lambda: len(list(there.iterdir())) == 3, 40, stage.daemon.text)
        wait_until("no job is left", lambda: not stage.jobs(), 40, lambda: str(stage.jobs()))
        for path in there.iterdir():
            assert path.read_bytes() == (disk.path / path.name).read_bytes()
        stage.server_at_rest()


@pytest.mark.parametrize(
    "phase",
    [
        "upload.chunk.stored:2",
        pytest.param("upload.chunk.sending:3", marks=pytest.mark.long),  # its digest is taken: the body ends too soon
        pytest.param("upload.session.remembered", marks=pytest.mark.long),
    ],
)
def test_read_errors_that_begin_in_the_middle(tmp_path: Path, phase: str) -> None:
    """A disk that fails when a file is half sent: said, nothing is published; mended, only what is missing is sent."""
    folder = {"path": str(tmp_path / "disk"), "name": "outbox", "settle": "1s"}
    with strict_disk(tmp_path / "disk") as disk, Stage(tmp_path, box=folder) as stage:
        stage.box.rmdir()
        stage.box = disk.path
        disk.uncached()
        on_disk(stage, "film.mov", FILE)
        on_disk(stage, "good", 100)
        stage.start_server()
        stage.daemon.arm(f"{phase}=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        disk.fail("read", errno.EIO, "film.mov")
        stage.daemon.go_on()
        stage.daemon.wait_ready()
        wait_told(stage, "film.mov", "Input/output error")
        wait_until("the other arrives", lambda: b"good" in stage.published(), 30, stage.daemon.text)
        held = ("film.mov", "paused", "source")
        wait_until("it is held", lambda: troubles(stage) == [held], 30, lambda: str(stage.jobs()))
        assert stage.published().keys() == {b"good"}
        assert "Traceback" not in stage.daemon.text() + stage.server.text()
        disk.mend()
        stage.at_rest()


def on_disk(stage: Stage, name: str, size: int) -> None:
    """A file of random bytes in the watched folder, whatever disk that is on."""
    (stage.box / name).write_bytes(os.urandom(size))
    stage.to_send += size
