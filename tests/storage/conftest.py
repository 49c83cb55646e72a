"""Fixtures of the storage tests: every implementation, and small real disks."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from chunkyd.storage.base import Storage
from chunkyd.storage.disk import DiskStorage
from chunkyd.storage.memory import MemoryStorage

MEBIBYTE = 1 << 20


class SmallDisk(Protocol):
    """Where it is mounted."""

    def __call__(self, size: int, names: int = 1000) -> Path: ...


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Not pytest's own: its clean-up recurses, and gives up at the depth these tests go to."""
    folder = tempfile.mkdtemp(prefix="chunkyd-storage-")
    yield Path(folder) / "data"
    subprocess.run(["rm", "-rf", folder], check=True)


@pytest.fixture
def disk(data_dir: Path) -> Iterator[DiskStorage]:
    made = DiskStorage(str(data_dir))
    yield made
    made.close()


@pytest.fixture(params=["memory", "disk"])
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    if request.param == "disk":
        yield request.getfixturevalue("disk")
    else:
        yield MemoryStorage()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mounts a real file system of so many bytes and names, as often as it is called."""
    mounted: list[Path] = []

    def mount(size: int, names: int = 1000) -> Path:
        folder = tmp_path / f"mount{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={names}", "none", str(folder)]
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"a small tmpfs cannot be mounted here: {made.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", os.fspath(folder)], check=True)


@pytest.fixture(params=["memory", "disk"])
def small_storage(request: pytest.FixtureRequest, small_disk: SmallDisk) -> Iterator[Storage]:
    """A storage with room for two mebibytes."""
    made: Storage
    if request.param == "memory":
        made = MemoryStorage(2 * MEBIBYTE)
    else:
        made = DiskStorage(str(small_disk(2 * MEBIBYTE) / "data"))
    yield made
    made.close()
