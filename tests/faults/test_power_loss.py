"""The power goes, at any moment, and with it whatever was not synced: docs/failure-model.md says what is promised.

Real programs, on a disk (tests/faults/strict_disk.py) that keeps nothing but what was synced, or an arbitrary part of
the rest. `make powerloss` cuts many hundred times, from a new seed each time; `make test` about twenty times.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.power import PowerStage
from tests.faults.strict_disk import strict_disk

LIVES = int(os.environ.get("POWER_LIVES", "7"))
SEED = int(os.environ.get("POWER_SEED", "1"))
CHANGES = 260  # about as many as one life's work takes


def lives(folder: Path, victim: str, after_upload: str = "keep") -> None:
    """One life after the other on the same disk, each ended by a power cut; then all has arrived."""
    with (
        strict_disk(folder / "disk", SEED) as disk,
        PowerStage(folder, disk, victim, SEED, after_upload) as stage,
    ):
        stage.start_server()
        stage.start_daemon()
        for _ in range(LIVES):
            stage.work()
            stage.lose_power(1 + int(CHANGES * stage.chance.random() ** 2))
        stage.finish()


@pytest.mark.parametrize("after_upload", ["keep", "delete"])
def test_the_server_loses_power(tmp_path: Path, after_upload: str) -> None:
    """What was said to be stored or complete is there, byte for byte, nothing is torn, and the rest follows."""
    lives(tmp_path, "server", after_upload)


@pytest.mark.parametrize("after_upload", ["keep", pytest.param("delete", marks=pytest.mark.long)])
def test_the_client_loses_power(tmp_path: Path, after_upload: str) -> None:
    """The daemon goes on with what its job table has kept; what the server has is not sent again; nothing is lost."""
    lives(tmp_path, "daemon", after_upload)
