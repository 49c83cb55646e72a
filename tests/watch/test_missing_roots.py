"""Roots that move, vanish, are replaced or unmounted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.watch.conftest import House, eventually


@pytest.mark.parametrize("poll", [False, True])
def test_a_root_renamed_away_and_back(house: House, poll: bool) -> None:
    """A renamed root is missing, none of its files is gone; back again it is scanned, and nothing told twice."""
    house.write(b"a")
    house.watch(poll=poll)
    house.arrived(b"a")
    away = house.folder.parent / "away"
    os.rename(house.folder, away)
    eventually(lambda: house.status().state == "missing")
    assert house.daemon.heard("missing") == 1
    (away / "b").write_bytes(b"x")
    os.rename(away, house.folder)
    house.arrived(b"a", b"b")
    house.write(b"c")
    if not poll:
        house.arrived(b"c")
    eventually(lambda: house.daemon.heard("scanned") >= 2)
    assert house.daemon.count(b"a") == 1
    assert house.daemon.heard("back") == 2
    assert not house.daemon.heard("gone")


def test_a_parent_renamed_away(house: House) -> None:
    """No event tells that a folder above the root moved; it is noticed all the same."""
    folder = house.folder / "below"
    folder.mkdir()
    house.folder, house.path = folder, os.fsencode(folder)
    house.write(b"a")
    house.watch()
    os.rename(folder.parent, folder.parent.parent / "away")
    eventually(lambda: house.status().state == "missing")
    assert not house.daemon.heard("gone")


def test_a_root_that_comes_later(house: House) -> None:
    """A folder that is not there at the start is missing, and taken up when it comes."""
    os.rmdir(house.folder)
    watcher = house.watch()
    assert "No such file" in house.status().problem
    assert "held" in house.status().mend
    eventually(lambda: house.daemon.heard("missing") == 1)
    assert not watcher.rescan().wait(10)
    house.write(b"a")
    house.arrived(b"a")
    assert house.daemon.heard("back") == 1


def test_a_root_replaced_by_another_folder(house: House) -> None:
    """Another folder in the root's place is taken at once, watched anew, and the old one's files are not gone."""
    house.write(b"old/file")
    house.watch()
    house.arrived(b"old/file")
    other = house.folder.parent / "other"
    (other / "new").mkdir(parents=True)
    (other / "new" / "file").write_bytes(b"x")
    os.rename(house.folder, house.folder.parent / "away")
    os.rename(other, house.folder)
    house.arrived(b"new/file")
    house.write(b"new/later")
    house.arrived(b"new/later")
    assert house.daemon.heard("missing") == 1
    assert house.daemon.heard("back") == 2
    assert not house.daemon.heard("gone", b"old/file")


def test_a_root_removed_and_made_anew_at_once(house: House) -> None:
    """A new root that got the old one's inode number is watched all the same."""
    house.watch()
    for _ in range(5):
        shutil.rmtree(house.folder)
        house.folder.mkdir()
    house.write(b"d/a")
    house.arrived(b"d/a")
    house.write(b"d/b")
    house.arrived(b"d/b")


def test_a_root_that_is_a_symlink(house: House) -> None:
    """The folder a root points to is watched; pointed elsewhere it is another folder."""
    real, other = house.folder.parent / "real", house.folder.parent / "other"
    real.mkdir()
    other.mkdir()
    (other / "b").write_bytes(b"x")
    os.rmdir(house.folder)
    house.folder.symlink_to(real)
    house.write(b"a")
    house.watch()
    house.arrived(b"a")
    new = house.folder.parent / "new"
    new.symlink_to(other)
    os.replace(new, house.folder)
    house.arrived(b"b")
    assert house.daemon.heard("missing") == 1


def test_a_root_that_becomes_a_file(house: House) -> None:
    """A file in the root's place is said to be no folder."""
    house.watch()
    os.rmdir(house.folder)
    house.folder.write_bytes(b"")
    eventually(lambda: house.status().problem == "this is not a folder")
    assert house.status().state == "missing"
    house.folder.unlink()
    house.folder.mkdir()


def test_an_unmounted_root(house: House, mount: Callable[[Path], None]) -> None:
    """An unmounted root is another, empty folder: missing is told, and nothing is gone; mounted again all is found."""
    mount(house.folder)
    house.write(b"d/a")
    house.watch()
    house.arrived(b"d/a")
    subprocess.run(["umount", str(house.folder)], check=True)
    eventually(lambda: house.daemon.heard("missing") == 1)
    eventually(lambda: house.daemon.heard("scanned") >= 2)
    assert not house.daemon.heard("gone")
    mount(house.folder)
    house.write(b"b")
    house.arrived(b"b")
    assert house.daemon.heard("missing") == 2


def test_a_file_system_mounted_below_is_entered(house: House, mount: Callable[[Path], None]) -> None:
    """What is mounted inside a root belongs to it, before and after a rescan; unmounted, the folder beneath is seen."""
    point = house.folder / "card"
    point.mkdir()
    watcher = house.watch()
    mount(point)
    house.write(b"card/DCIM/1.mov")
    assert watcher.rescan().wait(10)
    house.arrived(b"card/DCIM/1.mov")
    house.write(b"card/DCIM/2.mov")
    house.arrived(b"card/DCIM/2.mov")
    subprocess.run(["umount", str(point)], check=True)
    house.write(b"card/beneath")
    house.arrived(b"card/beneath")
    assert not house.daemon.heard("missing")
