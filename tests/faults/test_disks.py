"""Disks that are full, over quota, read-only, or fail, on either side, under each of the things kept there.

The programs say so, keep what they have, and go on by themselves when the disk is well again. The disk is the one of
tests/faults/strict_disk.py, which fails on request exactly where a test wants it. `make disks` runs all of them.
"""

from __future__ import annotations

import contextlib
import errno
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.programs import wait_until
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
        assert "not ready: " in stage.server.text()
        assert stage.published().keys() == {b"before"}
        assert "Traceback" not in stage.daemon.text()
        assert stage.server.running() and stage.daemon.running()
        disk.mend()
        stage.at_rest()


def met(stage: Stage) -> bool:
    """Whether each of the four was tried, waits or is paused, and has an error on record."""
    jobs = stage.jobs()
    return len(jobs) == 4 and all(error and state in ("waiting", "paused") for _, state, _, error in jobs)


def about(stage: Stage) -> str:
    """For a failed wait."""
    return f"{stage.jobs()}\n{stage.daemon.text()[-2000:]}\n{stage.server.text()[-4000:]}"
