"""Disks that are full, over quota, read-only, or fail, on either side, under each of the things kept there.

The programs say so, keep what they have, and go on by themselves when the disk is well again. The disk is the one of
tests/faults/strict_disk.py, which fails on request exactly where a test wants it. `make disks` runs all of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.checkpoints import VARIABLE
from tests.e2e.programs import BIN, Server, running, wait_until
from tests.faults.stage import MIB, Stage
from tests.faults.strict_disk import StrictDisk, strict_disk

CHANGING = "attributes make unlink rmdir rename link write sync allocate"
FAULTS = {
    "full": ("make write allocate", errno.ENOSPC),
    "quota": ("make write allocate", errno.EDQUOT),
    "read-only": (CHANGING, errno.EROFS),
    "writing fails": ("write", errno.EIO),
    "syncing fails": ("sync", errno.EIO),
}
SERVER_PATHS = {"everything": "data/*", "data": "data/[pf]*", "catalog": "data/catalog*"}
SAMPLE = {("full", "catalog"), ("read-only", "data"), ("syncing fails", "data")}
FILE = 3 * MIB + 17


@contextlib.contextmanager
def server_on(folder: Path) -> Iterator[tuple[Stage, StrictDisk]]:
    """A server whose data folder is on a disk that can fail; a file has arrived there."""
    with (
        strict_disk(folder / "disk") as disk,
        Stage(folder, server={"data_dir": disk.path / "data"}) as stage,
    ):
        stage.put("before", 1000)
        stage.arrive()
        yield stage, disk


def ready(stage: Stage) -> int:
    """What /readyz answers."""
    try:
        with urllib.request.urlopen(f"{stage.server.url}/readyz", timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        pytest.param(fault, place, marks=() if (fault, place) in SAMPLE else (pytest.mark.long,))
        for fault in FAULTS
        for place in SERVER_PATHS
    ],
)
def test_the_servers_disk_fails(tmp_path: Path, fault: str, place: str) -> None:
    """Nothing is published by halves, /readyz and the log say what is wrong, and all arrives when it is over."""
    with server_on(tmp_path) as (stage, disk):
        what, error = FAULTS[fault]
        disk.fail(what, error, SERVER_PATHS[place])
        stage.put("big", FILE)
        for number in range(3):
            stage.put(f"new/{number}", 2000 + number)
        wait_until("every job has met it", lambda: met(stage), 40, lambda: about(stage))
        assert ready(stage) == 503
        why = "catalog.sqlite3" if place == "catalog" else os.strerror(error)
        assert any(why in line for line in stage.server.text().splitlines() if "not ready: " in line)
        assert stage.published().keys() == {b"before"}
        assert "Traceback" not in stage.daemon.text()
        assert stage.server.running() and stage.daemon.running()
        disk.mend()
        stage.at_rest()


def sampled(sample: str) -> list[object]:
    """Every fault, all but one of them only at length."""
    return [pytest.param(fault, marks=() if fault == sample else (pytest.mark.long,)) for fault in FAULTS]


@pytest.mark.parametrize("fault", sampled("read-only"))
def test_the_daemons_disk_fails(tmp_path: Path, fault: str) -> None:
    """Under its job table and all it keeps: said, it stays up and nothing is sent for nothing; then all arrives."""
    with (
        strict_disk(tmp_path / "disk") as disk,
        Stage(tmp_path, daemon={"state_dir": str(disk.path / "state")}) as stage,
    ):
        stage.put("before", 1000)
        stage.arrive()
        disk.fail(*FAULTS[fault], "state*")
        stage.put("big", FILE)
        stage.put("small", 2000)
        words = "the disk is full" if fault in ("full", "quota") else "disk I/O error"
        wait_until("it is said", lambda: words in told(stage), 40, lambda: about(stage))
        assert str(disk.path / "state") in told(stage)
        assert stage.published().keys() <= {b"before", b"small"}, "no session may be used that is not remembered"
        assert "Traceback" not in stage.daemon.text()
        assert stage.daemon.running()
        disk.mend()
        stage.at_rest()


def told(stage: Stage) -> str:
    """What the daemon's user is told of its troubles."""
    problems = "".join(f"{each['what']} {each['mend']}" for each in stage.daemon.ctl("status")["problems"])
    return problems + "".join(error or "" for _, _, _, error in stage.jobs())


@pytest.mark.parametrize("fault", sampled("full"))
def test_the_disk_under_the_memory_of_chunky_fails(tmp_path: Path, fault: str) -> None:
    """Whether it is new or holds a session: it ends with 1 and the file's name; well again, it goes on from there."""
    server = Server(tmp_path)
    memory, file = tmp_path / "disk" / "memory", tmp_path / "file"
    file.write_bytes(os.urandom(FILE))
    with strict_disk(tmp_path / "disk") as disk, running(server):
        disk.fail(*FAULTS[fault], "*")
        assert_refused(chunky(server, file, memory), memory)
        assert "POST /initiateUploadSession" not in server.text()
        disk.mend()
        assert chunky(server, file, memory, "upload.chunk.stored").returncode == -signal.SIGKILL
        disk.fail(*FAULTS[fault], "*")
        assert_refused(chunky(server, file, memory), memory)
        disk.mend()
        done = chunky(server, file, memory)
        assert done.returncode == 0, done.stderr
        assert (server.files() / "file").read_bytes() == file.read_bytes()
        assert server.text().count("PATCH /uploadChunk 200") == -(-FILE // MIB), "no chunk came twice"


def assert_refused(done: subprocess.CompletedProcess[str], memory: Path) -> None:
    """In words."""
    assert done.returncode == 1
    assert f"{memory} cannot be " in done.stderr and "Traceback" not in done.stderr, done.stderr


def chunky(server: Server, file: Path, memory: Path, armed: str | None = None) -> subprocess.CompletedProcess[str]:
    """`chunky upload`, to its end or to its death at a checkpoint."""
    command = (BIN / "chunky", "upload", "--state", memory, "--chunk-size", "1MiB", "--parallel", "1")
    environment = {**os.environ, **({VARIABLE: armed} if armed else {})}
    return subprocess.run(
        [*command, "--to", server.url, file], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def met(stage: Stage) -> bool:
    """Whether each of the four was tried, waits or is paused, and has an error on record."""
    jobs = stage.jobs()
    return len(jobs) == 4 and all(error and state in ("waiting", "paused") for _, state, _, error in jobs)


def about(stage: Stage) -> str:
    """For a failed wait."""
    return f"{stage.jobs()}\n{stage.daemon.text()[-2000:]}\n{stage.server.text()[-4000:]}"
