"""What stands at a root, and on which file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkyd.files import Fingerprint
from chunkyd.watch.roots import FileSystem, file_system, look

MOUNTS = rb"""22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:30 / /mnt/nfs rw shared:2 - nfs4 server:/x rw
31 22 0:31 / /mnt/with\040space rw - vfat /dev/sdb1 rw
32 22 0:32 / /mnt/remote rw master:3 - fuse.sshfs host: rw
33 22 0:33 / /mnt/ntfs rw - fuseblk /dev/sdc1 rw
34 30 0:34 / /mnt/nfs/inner rw - xfs /dev/sdd rw
35 22 0:35 / /mnt/twice rw - ext4 /dev/sde rw
36 35 0:36 / /mnt/twice rw - cifs //server/share rw
a broken line
"""


@pytest.fixture
def mountinfo(tmp_path: Path) -> str:
    path = tmp_path / "mountinfo"
    path.write_bytes(MOUNTS)
    return str(path)


@pytest.mark.parametrize(
    ("path", "kind", "network", "stable"),
    [
        (b"/srv", "ext4", False, True),
        (b"/mnt/nfs", "nfs4", True, True),
        (b"/mnt/nfs/below/it", "nfs4", True, True),
        (b"/mnt/nfsx", "ext4", False, True),
        (b"/mnt/with space/DCIM", "vfat", False, False),
        (b"/mnt/remote/x", "fuse.sshfs", True, False),
        (b"/mnt/ntfs", "fuseblk", False, False),
        (b"/mnt/nfs/inner/x", "xfs", False, True),
        (b"/mnt/twice", "cifs", True, False),
    ],
)
def test_file_systems(mountinfo: str, path: bytes, kind: str, network: bool, stable: bool) -> None:
    """The longest mount point decides, the later of two; octal escapes are understood, broken lines passed over."""
    found = file_system(path, mountinfo)
    assert (found.kind, found.network, found.stable_inodes) == (kind, network, stable)
    assert found.trusted_times == (stable and not network)


def test_times_are_trusted_only_where_this_clock_made_them() -> None:
    """On a network or on FAT a file's times prove nothing."""
    assert file_system(b"/", "/nonexistent").trusted_times


def test_an_unreadable_mountinfo_means_local(tmp_path: Path) -> None:
    """Without /proc the folder is watched as a local one."""
    assert file_system(b"/", str(tmp_path / "none")).kind == ""


def test_looks(tmp_path: Path) -> None:
    """A folder has an identity, a symlink to it the same; a file or nothing has a problem in words."""
    folder = tmp_path / "folder"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder)
    (tmp_path / "file").write_bytes(b"")
    assert look(bytes(folder)).identity == look(bytes(link)).identity is not None
    assert look(bytes(tmp_path / "file")).problem == "this is not a folder"
    assert "No such file" in look(bytes(tmp_path / "none")).problem


@pytest.mark.parametrize(
    ("ctime_ns", "quiet"),
    [
        (100_500_000_000, 2.5),
        (100_000_000_000, 2.0),
        (103_000_000_000, -1.0),
        (200_000_000_000, -1.0),
        (200_000_000_001, 0),
    ],
)
def test_whole_seconds_prove_nothing_of_their_own_second(ctime_ns: int, quiet: float) -> None:
    """Where times have seconds only, a write later in the second of the last one leaves the same time."""
    local = FileSystem("ext4", network=False, stable_inodes=True)
    found = Fingerprint(device=1, inode=2, size=3, mtime_ns=0, ctime_ns=ctime_ns)
    assert local.quiet(found, 103.0) == pytest.approx(quiet)
    assert FileSystem("vfat", network=False, stable_inodes=False).quiet(found, 103.0) == 0
