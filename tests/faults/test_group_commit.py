"""One sync for many small files: the disk as it is at that moment has them all, on every file system it is used on.

The power goes as a copy is made of the image that the file system is in: nothing is in the copy but what was written to
the disk. Where a kernel syncs more than it has to, this shows less than a strict disk does (test_power_loss.py); but
no strict disk has syncfs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target
from chunkyd.storage.base import Attributes, NewFile, Prepared, Publication
from chunkyd.storage.disk import DiskStorage
from tests.faults.mounts import disks

KINDS = {
    "ext4": (64, ()),
    "ext4 without a journal": (64, ("-O", "^has_journal")),
    "xfs": (320, ()),
    "btrfs": (128, ()),
}
NUMBER = 100


@pytest.mark.parametrize("kind", KINDS)
def test_the_power_goes_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Prepared together and published: their bytes, times and modes are on the disk, and not only in memory."""
    monkeypatch.setattr("chunkyd.storage.disk.unwritten_bytes", lambda: 0)  # whatever else this machine is doing
    contents = {f"{number:032}": os.urandom(100 + 300 * number) for number in range(NUMBER)}
    megabytes, options = KINDS[kind]
    with disks(tmp_path) as made:
        disk = made.image(kind.split()[0], "disk", megabytes, options)
        with contextlib.closing(DiskStorage(str(disk / "data"))) as storage:
            assert storage._syncs_as_one
            files = [NewFile(name, each, Attributes(10**18 + len(each), 0o640)) for name, each in contents.items()]
            assert all(isinstance(outcome, Prepared) for outcome in storage.prepare_all(files))
            places = [Publication(name, Target("ann", name.encode()), keep_old=False) for name in contents]
            assert all(isinstance(outcome, Fingerprint) for outcome in storage.publish_all(places))
            after = tmp_path / "after.img"
            subprocess.run(["cp", "--sparse=always", tmp_path / "disk.img", after], check=True)
        made.pull(disk)
        (tmp_path / "after").mkdir()
        made.show(after, tmp_path / "after", kind.split()[0])
        arrived = tmp_path / "after" / "data" / "files" / "ann"
        assert {path.name: path.read_bytes() for path in arrived.iterdir()} == contents
        assert all(path.stat().st_mtime_ns == 10**18 + path.stat().st_size for path in arrived.iterdir())
        assert all(path.stat().st_mode & 0o777 == 0o640 for path in arrived.iterdir())
