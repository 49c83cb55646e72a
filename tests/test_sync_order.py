"""What has to be durable before what: bytes before names, names before records, a copy before its original goes.

Power cuts show it at length (tests/faults/test_power_loss.py); here each sync is seen by itself, in its place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkyd.catalog.base import FileRecord
from chunkyd.catalog.memory import MemoryCatalog
from chunkyd.clock import ManualClock
from chunkyd.daemon import after, rename
from chunkyd.daemon.after import Outcome, after_upload
from chunkyd.files import atomic_write, fingerprint
from chunkyd.protocol.paths import Target
from chunkyd.server.publish import Publisher
from chunkyd.settings import Delete, Move
from chunkyd.storage import system
from chunkyd.storage.base import Attributes, NewFile, Prepared
from chunkyd.storage.disk import DiskStorage
from tests.server.test_session import record
from tests.storage.helpers import publish, upload

Step = tuple[str, str]
SHA256 = hashlib.sha256(b"sent bytes").hexdigest()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """The calls that make names and bytes durable, or change a name, with the path they are about, in their order."""
    seen: list[Step] = []

    def synced(call: Callable[[int], None]) -> Callable[[int], None]:
        def wrapped(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            call(descriptor)
            seen.append(("sync", path))

        return wrapped

    def named(call: Callable[..., None], what: str, which: int, folder: str | None) -> Callable[..., None]:
        def wrapped(*paths: Any, **options: Any) -> None:
            path = os.fsdecode(paths[which])
            if folder is not None and options.get(folder) is not None:
                path = os.path.join(os.readlink(f"/proc/self/fd/{options[folder]}"), path)
            call(*paths, **options)
            seen.append((what, path))

        return wrapped

    def attributes_set(file: Any, *times: Any, **options: Any) -> None:
        utime(file, *times, **options)
        if isinstance(file, int):
            seen.append(("attributes", os.readlink(f"/proc/self/fd/{file}")))

    utime = os.utime
    monkeypatch.setattr(os, "utime", attributes_set)
    monkeypatch.setattr(os, "fsync", synced(os.fsync))
    monkeypatch.setattr(os, "fdatasync", synced(os.fdatasync))
    monkeypatch.setattr(os, "rename", named(os.rename, "name", 1, "dst_dir_fd"))
    monkeypatch.setattr(os, "mkdir", named(os.mkdir, "name", 0, "dir_fd"))
    monkeypatch.setattr(os, "unlink", named(os.unlink, "remove", 0, "dir_fd"))
    monkeypatch.setattr(os, "link", named(os.link, "name", 1, "dst_dir_fd"))
    renamed = named(rename.rename_without_replacing, "name", 1, None)
    monkeypatch.setattr(after, "rename_without_replacing", renamed)
    monkeypatch.setattr(rename, "rename_without_replacing", renamed)
    return seen


def follows(steps: list[Step], *wanted: Step) -> bool:
    """Whether these came in this order, whatever came in between."""
    rest = iter(steps)
    return all(step in rest for step in wanted)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[DiskStorage]:
    """A storage in a fresh folder."""
    storage = DiskStorage(str(tmp_path / "data"))
    yield storage
    storage.close()


def test_a_partial(disk: DiskStorage, steps: list[Step], tmp_path: Path) -> None:
    """The space that was set aside, then the name, before anyone is told of it."""
    assert disk.create("a" * 32, 100)
    partials = tmp_path / "data" / "partial"
    assert follows(steps, ("sync", str(partials / ("a" * 32))), ("sync", str(partials)))


def test_a_publication(disk: DiskStorage, steps: list[Step], tmp_path: Path) -> None:
    """Each folder in the one above it, the bytes and attributes, the new name, and its folder."""
    session = upload(disk, b"content")
    disk.prepare(session, Attributes(modified_ns=1, mode=0o600))
    disk.publish(session, Target("ann", b"a/b"), keep_old=False)
    files = tmp_path / "data" / "files"
    assert follows(
        steps,
        ("sync", str(tmp_path / "data" / "partial" / session)),
        ("name", str(files / "ann")),
        ("sync", str(files)),
        ("name", str(files / "ann" / "a")),
        ("sync", str(files / "ann")),
        ("name", str(files / "ann" / "a" / "b")),
        ("sync", str(files / "ann" / "a")),
    )


@pytest.fixture
def one_sync(monkeypatch: pytest.MonkeyPatch, disk: DiskStorage, steps: list[Step]) -> Callable[..., None]:
    """A disk for which one sync of its file system is as good, as the arguments have it."""

    def arrange(*, unwritten: int = 0, fails: int | None = None) -> None:
        def sync_file_system(descriptor: int) -> None:
            if fails is not None:
                raise OSError(fails, os.strerror(fails))
            system.sync_file_system(descriptor)
            steps.append(("sync all", os.readlink(f"/proc/self/fd/{descriptor}")))

        monkeypatch.setattr(disk, "_syncs_as_one", True)
        monkeypatch.setattr("chunkyd.storage.disk.unwritten_bytes", lambda: unwritten)
        monkeypatch.setattr("chunkyd.storage.disk.sync_file_system", sync_file_system)

    return arrange


def small(tmp_path: Path) -> tuple[list[NewFile], list[str]]:
    """Nine small files, and where they are while they are prepared."""
    names = [f"{number:032}" for number in range(9)]
    files = [NewFile(name, b"content", Attributes(modified_ns=1, mode=0o600)) for name in names]
    return files, [str(tmp_path / "data" / "partial" / name) for name in names]


def test_small_files_together(
    disk: DiskStorage, steps: list[Step], one_sync: Callable[..., None], tmp_path: Path
) -> None:
    """One sync of the file system for all, after all attributes; one more, of the folder, for the disk's cache."""
    one_sync()
    files, paths = small(tmp_path)
    assert all(isinstance(outcome, Prepared) for outcome in disk.prepare_all(files))
    assert steps == [
        *(("attributes", path) for path in paths),
        ("sync all", paths[0]),  # by the first of them: opened before all writing, it is told of every failure since
        ("sync", str(tmp_path / "data" / "partial")),
    ]


@pytest.mark.parametrize(
    "arranged", [{"unwritten": 65 << 20}, {"fails": errno.EIO}, None], ids=["much to write", "it fails", "not offered"]
)
def test_small_files_one_by_one(
    disk: DiskStorage,
    steps: list[Step],
    one_sync: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arranged: dict[str, Any] | None,
) -> None:
    """Else every one is synced, after its attributes; all have theirs before the first sync, and share its work."""
    if arranged is None:
        monkeypatch.setattr(disk, "_syncs_as_one", False)
    else:
        one_sync(**arranged)
    files, paths = small(tmp_path)
    assert all(isinstance(outcome, Prepared) for outcome in disk.prepare_all(files))
    assert steps == [*(("attributes", path) for path in paths), *(("sync", path) for path in paths)]


def test_one_of_many_small_files_is_not_synced(
    disk: DiskStorage, one_sync: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the common sync fails, each says for itself whether it was one of those that are not on the disk."""
    one_sync(fails=errno.EIO)
    files, paths = small(tmp_path)
    fsync = os.fsync

    def broken(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") == paths[4]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    outcomes = disk.prepare_all(files)
    assert [isinstance(outcome, Prepared) for outcome in outcomes] == [number != 4 for number in range(9)]
    assert sorted(disk.partials()) == [file.session_id for number, file in enumerate(files) if number != 4]


def test_many_small_files_where_the_cache_of_the_disk_is_not_flushed(
    disk: DiskStorage,
    steps: list[Step],
    one_sync: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One sync for all was not enough then: every one is synced by itself."""
    one_sync()
    files, paths = small(tmp_path)
    fsync = os.fsync

    def broken(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}") not in paths:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", broken)
    assert all(isinstance(outcome, Prepared) for outcome in disk.prepare_all(files))
    assert [path for what, path in steps if what == "sync"] == paths


def test_no_descriptor_is_left_open_by_a_disk_that_became_read_only(
    disk: DiskStorage, one_sync: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be synced cannot be removed either: every file is closed all the same, and has its outcome."""
    one_sync(fails=errno.EROFS)

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    files, _ = small(tmp_path)
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "fsync", read_only)
    monkeypatch.setattr(os, "unlink", read_only)
    outcomes = disk.prepare_all(files)
    assert all(isinstance(outcome, OSError) for outcome in outcomes)
    assert os.listdir("/proc/self/fd") == before


def test_a_publication_that_is_caught_up(disk: DiskStorage, steps: list[Step], tmp_path: Path) -> None:
    """After a crash between rename and record the name is there, and nobody knows whether it is durable."""
    publish(disk, b"a/b", b"content")
    steps.clear()
    path = tmp_path / "data" / "files" / "ann" / "a" / "b"
    assert disk.finish(Target("ann", b"a/b"), path.stat().st_ino) is not None
    assert steps[-1] == ("sync", str(path.parent))


class Recorded(MemoryCatalog):
    """A catalog whose word that a session is complete is one of the steps."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self._steps = steps

    def complete(self, session_id: str, file: FileRecord | None) -> bool:
        self._steps.append(("record", session_id))
        return super().complete(session_id, file)


class Died(BaseException):
    """The server is no more."""


@pytest.mark.parametrize("cut_short", [False, True])
def test_an_overtaken_version_that_is_kept(
    disk: DiskStorage, steps: list[Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_short: bool
) -> None:
    """Its bytes and attributes, its name beside the newer one, and their folder, before anyone is told of it.

    Also where a server that died after the rename is followed by another one.
    """
    catalog = Recorded(steps)
    older = catalog.add_session(record(9, session_id=upload(disk, b"the older"), user="ann", target=b"a/b", mode=0o600))
    newer = catalog.add_session(record(5, session_id="newer", user="ann", target=b"a/b"))
    fingerprint = publish(disk, b"a/b", b"newer")
    catalog.complete("newer", FileRecord("ann", b"a/b", "1" * 64, 5, fingerprint, newer.sequence, 0.0))
    steps.clear()
    if cut_short:

        def die(step: str) -> None:
            if step == "storage.publish.renamed":
                raise Died

        with monkeypatch.context() as patched, pytest.raises(Died):
            patched.setattr("chunkyd.storage.placing.reached", die)
            Publisher(disk, catalog, ManualClock(), keep_old=True).publish(older.session_id)
    Publisher(disk, catalog, ManualClock(), keep_old=True).publish(older.session_id)
    folder = tmp_path / "data" / "files" / "ann" / "a"
    assert (folder / "b.~1~").read_bytes() == b"the older"
    assert (folder / "b.~1~").stat().st_mode & 0o777 == 0o600
    assert follows(
        steps,
        ("sync", str(tmp_path / "data" / "partial" / older.session_id)),
        ("name", str(folder / "b.~1~")),
        ("sync", str(folder)),
        ("record", older.session_id),
    )


@pytest.mark.parametrize("by", ["us", "others"])
def test_a_folder_that_is_made_again(disk: DiskStorage, steps: list[Step], tmp_path: Path, by: str) -> None:
    """Removed, to make way or by whoever takes the files away, and made again: it may have the old one's inode."""
    files = tmp_path / "data" / "files"
    publish(disk, b"a/b", b"content")
    (files / "ann" / "a" / "b").unlink()
    if by == "us":
        publish(disk, b"a", b"a file in the folder's place")
        (files / "ann" / "a").unlink()
    else:
        (files / "ann" / "a").rmdir()
    steps.clear()
    publish(disk, b"a/b", b"content")
    assert follows(steps, ("name", str(files / "ann" / "a")), ("sync", str(files / "ann")))


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """A file that was sent."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    path = tmp_path / "root" / "sub" / "film.mov"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"sent bytes")
    yield path
    signal.signal(signal.SIGIO, before)


def finish(source: Path, policy: Delete | Move) -> Outcome:
    """What is done after the upload, for job 7."""
    root = os.fsencode(source.parent.parent)
    return after_upload(root, b"sub/film.mov", (7, "feed"), fingerprint(os.stat(source)), policy, lambda: SHA256)


def test_a_small_file_that_is_replaced(steps: list[Step], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its content, then its name, then the folder: a name that is durable before its content is an empty file."""
    replaced = os.replace

    def replace(temporary: str, path: str) -> None:
        steps.append(("bytes of", temporary))
        replaced(temporary, path)
        steps.append(("name", path))

    monkeypatch.setattr(os, "replace", replace)
    atomic_write(str(tmp_path / "roots.json"), b"{}")
    temporary = next(path for what, path in steps if what == "bytes of")
    assert follows(steps, ("sync", temporary), ("name", str(tmp_path / "roots.json")), ("sync", str(tmp_path)))


def test_a_source_that_is_deleted(source: Path, steps: list[Step]) -> None:
    """Its name is gone for good before the job is done: back after a power cut, the file would be sent again."""
    assert finish(source, Delete()) is Outcome.DELETED
    removed = [path for what, path in steps if what == "remove"]
    assert len(removed) == 1
    assert steps[-1][0] == "sync"
    assert follows(steps, ("remove", removed[0]), steps[-1])


def test_a_source_that_is_moved(source: Path, steps: list[Step], tmp_path: Path) -> None:
    """The new name, then the old one's absence: a power cut in between leaves two names, never none."""
    assert finish(source, Move(str(tmp_path / "sent"))) is Outcome.MOVED
    new = tmp_path / "sent" / "sub"
    position = steps.index(("name", str(new / "film.mov")))
    synced = [step for step in steps[position:] if step[0] == "sync"]
    assert synced[0] == ("sync", str(new))
    assert len(synced) == 2


def test_a_source_that_is_copied(source: Path, steps: list[Step], tmp_path: Path) -> None:
    """To another file system: the bytes, the name, its folder; only then the source goes."""
    if os.stat("/dev/shm").st_dev == os.stat(source).st_dev:
        pytest.skip("/dev/shm is on the same file system")
    target = Path("/dev/shm") / f"chunkyd-order-{os.getpid()}"
    try:
        assert finish(source, Move(str(target))) is Outcome.MOVED
        new = target / "sub"
        named = steps.index(("name", str(new / "film.mov")))
        removed = next(n for n, (what, path) in enumerate(steps) if what == "remove" and "-sent-7-" in path)
        assert named < removed
        bytes_synced = [path for what, path in steps[:named] if what == "sync" and Path(path).parent == new]
        assert bytes_synced, "its bytes before its name"
        assert ("sync", str(new)) in steps[named:removed], "its name before the source goes"
    finally:
        for path in sorted(target.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        target.rmdir()
