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
from chunkyd.storage.system import sync_file_system
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


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_another_group_is_told_of_a_failure_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What a disk did not take is not prepared, whichever of the groups that sync at once hears of it first."""
    files = [NewFile(f"{number:032}", os.urandom(200_000), Attributes()) for number in range(20)]
    files.append(NewFile("empty" * 4, b"", Attributes()))  # the last one has nothing that could fail
    with disks(tmp_path) as made, disks(made.disk("thin", "400m")) as thin:
        disk = thin.image(kind, "disk", 320)  # more than the memory it is in has left
        with contextlib.closing(DiskStorage(str(disk / "data"))) as storage:

            def other_group_syncs() -> int:
                with contextlib.suppress(OSError):
                    sync_file_system(storage._partials)
                return 0

            monkeypatch.setattr("chunkyd.storage.disk.unwritten_bytes", other_group_syncs)
            os.sync()
            with contextlib.suppress(OSError), (tmp_path / "thin" / "filler").open("wb") as filler:
                while True:
                    filler.write(bytes(1 << 20))
            outcomes = storage.prepare_all(files)
            assert not any(isinstance(outcome, Prepared) for outcome in outcomes[:-1])
