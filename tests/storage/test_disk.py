"""What only a real file system can do to a storage: links, locks, modes, leftovers, other users' files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from chunkyd.errors import AlreadyRunning, StateError, StorageFull
from chunkyd.files import Fingerprint, fingerprint
from chunkyd.protocol.paths import Target
from chunkyd.storage.base import Attributes, Publication
from chunkyd.storage.disk import DiskStorage
from chunkyd.storage.opened import OpenFile
from tests.storage.conftest import SmallDisk
from tests.storage.helpers import content_of, everything, publish, upload

NOBODY = 65534


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_taken_away_at_once(disk: DiskStorage, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes files as they come spoils none: each was published, those behind it in its folder too."""
    files = data_dir / "files" / "ann"

    def take(name: str) -> None:
        if name == "storage.publish.renamed":
            (files / "0").rename(data_dir / "taken") if (files / "0").exists() else None

    monkeypatch.setattr("chunkyd.storage.placing.reached", take)
    publications = [Publication(upload(disk, b"new"), Target("ann", b"%d" % number), False) for number in range(3)]
    found = disk.publish_all(publications)
    assert all(isinstance(each, Fingerprint) for each in found)
    assert found[0] == fingerprint((data_dir / "taken").stat())
    assert everything(disk) == {b"1": b"new", b"2": b"new"}


def test_edited_at_once(disk: DiskStorage, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint is that of what was published, not of what an editor made of it before it was taken."""

    def edit(name: str) -> None:
        if name == "storage.publish.renamed":
            (data_dir / "files" / "ann" / "x").write_bytes(b"old")

    monkeypatch.setattr("chunkyd.storage.placing.reached", edit)
    found = publish(disk, b"x", b"new")
    now = disk.published(Target("ann", b"x"))
    assert now is not None
    assert not now.same_version(found)


def test_replaced_at_once(disk: DiskStorage, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another file takes its place, of the same size and time, and on ext4 with the inode number it had."""

    def take_its_place(name: str) -> None:
        if name == "storage.publish.renamed":
            path = data_dir / "files" / "ann" / "x"
            found = path.stat()
            path.unlink()
            path.write_bytes(b"own")
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))

    monkeypatch.setattr("chunkyd.storage.placing.reached", take_its_place)
    found = publish(disk, b"x", b"new")
    now = disk.published(Target("ann", b"x"))
    assert now is not None and content_of(disk, b"x") == b"own"
    assert not now.same_version(found)


def test_no_descriptor_is_left(disk: DiskStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is each file's own failure, and all partials are still there."""
    publications = [Publication(upload(disk, b"new"), Target("ann", b"%d" % number), False) for number in range(3)]

    def fail(root: int) -> None:
        raise OSError(errno.EMFILE, "too many")

    monkeypatch.setattr("chunkyd.storage.tree.Walk", fail)
    assert [type(each) for each in disk.publish_all(publications)] == [OSError] * 3
    assert len(list(disk.partials())) == 3


class TestLinks:
    """No symbolic link is ever followed."""

    def test_a_link_in_the_path(self, disk: DiskStorage, data_dir: Path) -> None:
        """A folder of the path that is a link elsewhere is an old version: kept or replaced, never entered."""
        outside = data_dir / "outside"
        outside.mkdir()
        for keep_old in (True, False):
            user = data_dir / "files" / f"user{keep_old}"
            user.mkdir()
            (user / "a").symlink_to(outside)
            publish(disk, b"a/b", b"new", user=user.name, keep_old=keep_old)
            assert (user / "a" / "b").read_bytes() == b"new"
            assert os.path.lexists(user / "a.~1~") == keep_old
        assert list(outside.iterdir()) == []
        assert os.readlink(data_dir / "files" / "userTrue" / "a.~1~") == str(outside)

    def test_a_link_at_the_target(self, disk: DiskStorage, data_dir: Path) -> None:
        """A link where the file goes is replaced itself; what it points at is never written, read or touched."""
        precious = data_dir / "precious"
        precious.write_bytes(b"precious")
        user = data_dir / "files" / "ann"
        user.mkdir()
        (user / "x").symlink_to(precious)
        target = Target("ann", b"x")
        assert disk.published(target) is None
        assert disk.open_published(target) is None
        assert disk.set_attributes(target, Attributes(modified_ns=0, mode=0)) is None
        assert list(disk.walk()) == []
        publish(disk, b"x", b"new", keep_old=True)
        assert (content_of(disk, b"x"), os.readlink(user / "x.~1~")) == (b"new", str(precious))
        assert (precious.read_bytes(), precious.stat().st_mtime > 0) == (b"precious", True)

    def test_a_user_that_is_a_link(self, disk: DiskStorage, data_dir: Path) -> None:
        """A user's folder that is a link is refused as a failure of the machine, not silently used or replaced."""
        outside = data_dir / "outside"
        outside.mkdir()
        (data_dir / "files" / "ann").symlink_to(outside)
        session_id = upload(disk, b"x")
        with pytest.raises(NotADirectoryError):
            disk.publish(session_id, Target("ann", b"x"), keep_old=False)
        assert disk.published(Target("ann", b"x")) is None
        assert list(disk.walk("ann")) == list(disk.walk()) == []
        assert list(outside.iterdir()) == []
        assert (data_dir / "files" / "ann").is_symlink()
        assert list(disk.partials()) == [session_id]

    def test_a_folder_swapped_for_a_link_again_and_again(self, disk: DiskStorage, data_dir: Path) -> None:
        """Somebody who turns a folder of the path into a link and back, as fast as can be, gets nothing outside."""
        outside = data_dir / "outside"
        outside.mkdir()
        user = data_dir / "files" / "ann"
        (user / "a").mkdir(parents=True)
        (user / "link").symlink_to(outside)
        done = threading.Event()

        def swap() -> None:
            while not done.is_set():
                for old, new in (("a", "real"), ("link", "a"), ("a", "link"), ("real", "a")):
                    with contextlib.suppress(OSError):
                        os.rename(user / old, user / new)

        swapper = threading.Thread(target=swap)
        swapper.start()
        try:
            for number in range(200):
                with contextlib.suppress(OSError):
                    publish(disk, b"a/%d" % number, b"x")
        finally:
            done.set()
            swapper.join()
        assert list(outside.iterdir()) == []

    def test_fifos_block_nobody(self, disk: DiskStorage, data_dir: Path) -> None:
        """A FIFO at a path is no published file, hangs no reader, and gives way as an old version does."""
        (data_dir / "files" / "ann").mkdir()
        os.mkfifo(data_dir / "files" / "ann" / "x")
        os.mkfifo(data_dir / "files" / "ann" / "y")
        assert disk.open_published(Target("ann", b"x")) is None
        assert list(disk.walk()) == []
        publish(disk, b"x", b"new")
        publish(disk, b"y/z", b"new", keep_old=True)
        assert everything(disk) == {b"x": b"new", b"y/z": b"new"}
        assert stat.S_ISFIFO((data_dir / "files" / "ann" / "y.~1~").stat().st_mode)


class TestFolders:
    """Empty folders, and folders of others."""

    def test_an_empty_folder_gives_way(self, disk: DiskStorage, data_dir: Path) -> None:
        """An empty folder at the target is removed; one that holds only empty folders is content, and stays."""
        (data_dir / "files" / "ann" / "x").mkdir(parents=True)
        (data_dir / "files" / "ann" / "y" / "z").mkdir(parents=True)
        publish(disk, b"x", b"new")
        session_id = upload(disk, b"new")
        with pytest.raises(Exception, match="y"):
            disk.publish(session_id, Target("ann", b"y"), keep_old=False)
        assert everything(disk) == {b"x": b"new"}
        assert (data_dir / "files" / "ann" / "y" / "z").is_dir()

    def test_a_walk_survives_moves(self, disk: DiskStorage, data_dir: Path) -> None:
        """A folder that is moved away under a walk misleads it to no file outside, and hides no other folder's."""
        for name in (b"a", b"b", b"c"):
            publish(disk, name + b"/sub/x", name)
        user = data_dir / "files" / "ann"
        elsewhere = data_dir / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "secret").write_bytes(b"secret")
        found: set[bytes] = set()
        for target, _ in disk.walk("ann"):
            found.add(target.path)
            if len(found) == 1:
                top = target.path.split(b"/")[0].decode()
                os.rename(user / top / "sub", elsewhere / "sub")
        assert found == {b"a/sub/x", b"b/sub/x", b"c/sub/x"}

    def test_folders_of_no_user(self, disk: DiskStorage, data_dir: Path) -> None:
        """What stands among the users' folders and is none is passed over."""
        os.mkdir(os.fsencode(data_dir) + b"/files/\xff")
        (data_dir / "files" / "lost.txt").write_bytes(b"x")
        publish(disk, b"x", b"new")
        assert [target for target, _ in disk.walk()] == [Target("ann", b"x")]


class TestModes:
    """Who may read what."""

    @pytest.mark.parametrize(("given", "published"), [(0o7777, 0o755), (0, 0o400), (0o666, 0o644), (0o070, 0o450)])
    def test_a_mode_is_made_harmless(self, disk: DiskStorage, data_dir: Path, given: int, published: int) -> None:
        """No setuid, setgid, sticky, no writing by others; the owner can always read."""
        session_id = upload(disk, b"x", Attributes(mode=given))
        disk.publish(session_id, Target("ann", b"x"), keep_old=False)
        assert mode_of(data_dir / "files" / "ann" / "x") == published
        disk.set_attributes(Target("ann", b"x"), Attributes(mode=0o644))
        disk.set_attributes(Target("ann", b"x"), Attributes(mode=given))
        assert mode_of(data_dir / "files" / "ann" / "x") == published

    def test_without_a_mode(self, disk: DiskStorage, data_dir: Path) -> None:
        """The umask decides about files and folders, and nobody else sees what is in progress."""
        before = os.umask(0o027)
        try:
            publish(disk, b"a/x", b"x")
        finally:
            os.umask(before)
        assert mode_of(data_dir / "files" / "ann" / "a" / "x") == 0o640
        assert mode_of(data_dir / "files" / "ann" / "a") == 0o750
        assert (mode_of(data_dir), mode_of(data_dir / "partial")) == (0o700, 0o700)


def as_nobody(work: Callable[[], None]) -> None:
    """Run something as an ordinary user, in a process of its own; fails where it fails."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            work()
            os._exit(0)
        except BaseException as failure:
            os.write(2, repr(failure).encode())
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TestOrdinaryUsers:
    """What root never notices."""

    def test_a_read_only_partial_opens_again(self, data_dir: Path) -> None:
        """A partial prepared with mode 0444 and then cut short can be read, written and published after all."""
        os.chmod(data_dir.parent, 0o777)

        def work() -> None:
            storage = DiskStorage(str(data_dir))
            session_id = upload(storage, b"hello", Attributes(mode=0o444))
            with contextlib.closing(storage.open(session_id)) as partial:
                partial.write(0, b"J")
            storage.prepare(session_id, Attributes(mode=0o444))
            storage.publish(session_id, Target("ann", b"x"), keep_old=False)
            assert content_of(storage, b"x") == b"Jello"
            assert mode_of(data_dir / "files" / "ann" / "x") == 0o444

        as_nobody(work)

    @pytest.mark.parametrize("path", [b"x", b"x/below"])
    def test_keeping_what_cannot_be_linked(self, data_dir: Path, path: bytes) -> None:
        """An old file that may not get a second name (another's, or no hard links there) is kept by a rename."""
        os.chmod(data_dir.parent, 0o777)
        as_nobody(lambda: DiskStorage(str(data_dir)).close())
        user = data_dir / "files" / "ann"
        user.mkdir()
        os.chown(user, NOBODY, NOBODY)
        (user / "x").write_bytes(b"root's")
        (user / "x").chmod(0o600)

        def work() -> None:
            storage = DiskStorage(str(data_dir))
            publish(storage, path, b"new", keep_old=True)
            assert content_of(storage, path) == b"new"

        as_nobody(work)
        assert (user / "x.~1~").read_bytes() == b"root's"

    def test_a_folder_that_cannot_be_used(self, data_dir: Path) -> None:
        """A data folder without permission is a StateError that names it."""
        data_dir.mkdir(mode=0o700)

        def work() -> None:
            with pytest.raises(StateError, match=str(data_dir)):
                DiskStorage(str(data_dir))

        os.chmod(data_dir.parent, 0o755)
        as_nobody(work)


class TestOwner:
    """One process owns a data folder."""

    def test_a_second_owner_is_refused(self, disk: DiskStorage, data_dir: Path) -> None:
        """The second one is told who holds the folder; when the first has closed, it may."""
        with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
            DiskStorage(str(data_dir))
        disk.close()
        DiskStorage(str(data_dir)).close()

    def test_what_a_start_finds(self, disk: DiskStorage, data_dir: Path) -> None:
        """Partials and files are there again after a restart; temporary names are not."""
        publish(disk, b"x", b"published")
        session_id = upload(disk, b"partial")
        (data_dir / "partial" / ".old-session-77").write_bytes(b"left")
        disk.close()
        with contextlib.closing(DiskStorage(str(data_dir))) as again:
            assert everything(again) == {b"x": b"published"}
            assert list(again.partials()) == [session_id]
            assert os.listdir(data_dir / "partial") == [session_id]

    def test_late_calls(self, disk: DiskStorage) -> None:
        """After close no call reaches a folder, whatever files the numbers of its descriptors belong to by then."""
        publish(disk, b"x", b"published")
        session_id = upload(disk, b"partial")
        disk.close()
        for call in (
            lambda: disk.create("one", 1),
            lambda: disk.open(session_id),
            lambda: disk.publish(session_id, Target("ann", b"y"), keep_old=False),
            lambda: disk.published(Target("ann", b"x")),
            disk.free_bytes,
        ):
            with pytest.raises(OSError, match="Bad file descriptor"):
                call()

    def test_two_file_systems(self, data_dir: Path, small_disk: SmallDisk) -> None:
        """Partials and published files on different file systems are refused at once, not at the first upload."""
        data_dir.mkdir()
        (data_dir / "files").symlink_to(small_disk(1 << 20))
        with pytest.raises(StateError, match="different file systems"):
            DiskStorage(str(data_dir))

    def test_a_file_instead_of_a_folder(self, data_dir: Path) -> None:
        """A data folder that is a file is a StateError, and the file stays."""
        data_dir.write_bytes(b"x")
        with pytest.raises(StateError):
            DiskStorage(str(data_dir))
        assert data_dir.read_bytes() == b"x"


class TestSpace:
    """Full disks, and file systems that set nothing aside."""

    def test_a_full_disk_while_writing(self, small_disk: SmallDisk) -> None:
        """A write that finds no room is StorageFull, what was stored stays, and the same write works later."""
        with contextlib.closing(DiskStorage(str(small_disk(1 << 20) / "data"))) as storage:
            storage.create("other", 1 << 19)
            storage.create("one", 0)
            with contextlib.closing(storage.open("one")) as partial:
                partial.write(0, b"a" * (1 << 18))
                with pytest.raises(StorageFull):
                    partial.write(1 << 18, b"b" * (1 << 19))
                assert partial.read(0, 1 << 18) == b"a" * (1 << 18)
                storage.discard("other")
                partial.write(1 << 18, b"b" * (1 << 19))
                partial.sync()

    @pytest.mark.parametrize("keep_old", [True, False])
    @pytest.mark.parametrize("path", [b"a", b"a/b/c/d", b"b", b"b/c"])
    def test_no_room_for_names(self, small_disk: SmallDisk, path: bytes, keep_old: bool) -> None:
        """With any number of entries left a publication happens whole or not at all: then all is as it was."""
        published = 0
        for room in range(8):
            mount = small_disk(1 << 20, names=64)
            with contextlib.closing(DiskStorage(str(mount / "data"))) as storage:
                publish(storage, b"a", b"old")
                session_id = upload(storage, b"new")
                for number in range(os.statvfs(mount).f_ffree - room):
                    (mount / str(number)).touch()
                try:
                    storage.publish(session_id, Target("ann", path), keep_old=keep_old)
                    published += 1
                    assert content_of(storage, path) == b"new"
                except StorageFull:
                    assert everything(storage) == {b"a": b"old"}
                    assert os.listdir(mount / "data" / "files" / "ann") == ["a"]
                    assert os.listdir(mount / "data" / "partial") == [session_id]
        assert published > 0

    def test_without_fallocate(self, tmp_path: Path) -> None:
        """A file system that sets nothing aside gets a file of the right size, and `create` says so."""
        mount = tmp_path / "ramfs"
        mount.mkdir()
        if subprocess.run(["mount", "-t", "ramfs", "none", str(mount)], check=False, capture_output=True).returncode:
            pytest.skip("a ramfs cannot be mounted here")
        try:
            with contextlib.closing(DiskStorage(str(mount / "data"))) as storage:
                assert not storage.create("one", 1 << 40)
                assert (mount / "data" / "partial" / "one").stat().st_size == 1 << 40
                publish(storage, b"x", b"old")
                publish(storage, b"x", b"new", keep_old=True)
                assert everything(storage) == {b"x": b"new", b"x.~1~": b"old"}
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=True)

    def test_more_than_a_file_system_takes(self, disk: DiskStorage) -> None:
        """A size no file can have, or no disk has, is refused and leaves nothing behind."""
        with pytest.raises((StorageFull, OSError)):
            disk.create("one", 2**63 - 1)
        assert list(disk.partials()) == []


class TestOpenFile:
    """An open file among threads."""

    def test_close_waits_for_calls_under_way(self, tmp_path: Path) -> None:
        """The descriptor is released by whoever leaves last, so no late write reaches another file."""
        file = OpenFile(os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT))
        with file.held() as descriptor:
            file.close()
            os.fstat(descriptor)
            with pytest.raises(ValueError):
                file.read(0, 1)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)

    def test_a_failed_sync_is_not_forgotten(self, tmp_path: Path) -> None:
        """After one failed sync none succeeds on this open file, though the kernel would say all is well."""
        reading, writing = os.pipe()  # a pipe cannot be synced
        os.close(reading)
        file = OpenFile(writing)
        with pytest.raises(OSError):
            file.sync()
        healthy = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
        os.dup2(healthy, writing)
        os.close(healthy)
        with pytest.raises(OSError, match="earlier sync"):
            file.sync()
        file.close()


def test_which_file_system_is_synced_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the partials: they may be linked to a disk on which one sync for all does nothing."""
    asked: list[str] = []

    def asking(folder: str) -> bool:
        asked.append(os.path.realpath(folder))
        return False

    monkeypatch.setattr("chunkyd.storage.disk.syncs_as_one", asking)
    other, data = tmp_path / "other", tmp_path / "data"
    data.mkdir()
    for name in ("partial", "files"):
        (other / name).mkdir(parents=True)
        (data / name).symlink_to(other / name)
    DiskStorage(str(data)).close()
    assert asked == [str(other / "partial")]
