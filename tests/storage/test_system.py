"""What is asked of the system itself: whether one sync may be for many files, and how much others have to write."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from chunkyd.storage import system


@pytest.mark.parametrize(
    ("release", "kind", "as_one"),
    [
        ("6.1.0-18-amd64", "ext4", True),
        ("5.8", "xfs", True),
        ("5.10.209-rc1", "btrfs", True),
        ("5.7.19", "ext4", False),  # its syncfs hides that a write failed
        ("4.18.0-553.el8", "ext4", False),
        ("6.1.0", "fuse", False),
        ("6.1.0", "nfs4", False),
        ("6.1.0", "", False),
        ("unheard of", "ext4", False),
    ],
)
def test_where_one_sync_is_for_all(monkeypatch: pytest.MonkeyPatch, release: str, kind: str, as_one: bool) -> None:
    """On file systems that commit together what has gathered, under a kernel that tells of failures."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    monkeypatch.setattr(system, "file_system", lambda folder: kind)
    assert system.syncs_as_one("/srv") is as_one


def test_a_sync_that_fails_says_so() -> None:
    """Of a descriptor that is none, say."""
    with pytest.raises(OSError, match="Bad file descriptor") as raised:
        system.sync_file_system(-1)
    assert raised.value.errno == errno.EBADF


def test_what_is_unwritten(tmp_path: Path) -> None:
    """What this machine says; a lot where it says nothing."""
    text = Path("/proc/meminfo").read_text()
    assert 0 <= system.unwritten_bytes() < 1 << 50
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  100 kB\nDirty:    12 kB\nWriteback:   3 kB\nWritebackTmp:   50 kB\n")
    assert system.unwritten_bytes(str(meminfo)) == 15 * 1024
    assert "\nDirty:" in text and "\nWriteback:" in text
    meminfo.write_text("MemTotal:  100 kB\n")
    assert system.unwritten_bytes(str(meminfo)) > 1 << 50
    assert system.unwritten_bytes(str(tmp_path / "nothing")) > 1 << 50
