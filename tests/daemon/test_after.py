"""What is done to a source after its upload never touches what was not sent."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.daemon import after, copying, rename
from chunkyd.daemon.after import BeingWritten, Outcome, after_upload, give_back, hidden_for
from chunkyd.daemon.rename import rename_without_replacing
from chunkyd.files import Fingerprint, fingerprint
from chunkyd.settings import Delete, Keep, Move
from chunkyd.upload.source import is_in_memory

JOB = (7, "feed")
SHA256 = hashlib.sha256(b"sent bytes").hexdigest()


@pytest.fixture(autouse=True)
def _broken_leases_do_not_kill() -> Iterator[None]:
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file that was sent."""
    path = tmp_path / "root" / "sub" / "film.mov"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"sent bytes")
    return path


def sent(path: Path) -> Fingerprint:
    """Its fingerprint."""
    return fingerprint(os.stat(path))


def finish(path: Path, policy: Keep | Delete | Move, was: Fingerprint | None = None) -> Outcome:
    """As the daemon does it, for job 7."""
    below = os.fsencode(path.relative_to(path.parent.parent))
    return after_upload(os.fsencode(path.parent.parent), below, JOB, was or sent(path), policy, lambda: SHA256)


def test_keep_leaves_it(source: Path) -> None:
    """`keep` does nothing."""
    assert finish(source, Keep()) is Outcome.KEPT
    assert source.read_bytes() == b"sent bytes"


def test_delete_removes_what_was_sent(source: Path) -> None:
    """`delete` removes the file and leaves no hidden name."""
    assert finish(source, Delete()) is Outcome.DELETED
    assert list(source.parent.iterdir()) == []


def test_move_keeps_the_path_below_the_root(source: Path, tmp_path: Path) -> None:
    """`move` puts it below the target with its path, bytes and time."""
    was = sent(source)
    target = tmp_path / "sent"
    assert finish(source, Move(str(target))) is Outcome.MOVED
    assert (target / "sub" / "film.mov").read_bytes() == b"sent bytes"
    assert (target / "sub" / "film.mov").stat().st_mtime_ns == was.mtime_ns
    assert not source.exists()


def test_move_never_overwrites(source: Path, tmp_path: Path) -> None:
    """A file of that name at the target stays; the moved one gets a number."""
    target = tmp_path / "sent" / "sub"
    target.mkdir(parents=True)
    (target / "film.mov").write_bytes(b"older")
    assert finish(source, Move(str(tmp_path / "sent"))) is Outcome.MOVED
    assert (target / "film.mov").read_bytes() == b"older"
    assert (target / "film.mov.~1~").read_bytes() == b"sent bytes"


@pytest.mark.parametrize("policy", ["delete", "move"])
def test_an_edited_file_is_left(source: Path, tmp_path: Path, policy: str) -> None:
    """Edited after it was sent: nothing is removed, whatever the policy."""
    was = sent(source)
    source.write_bytes(b"newer bytes, not sent")
    assert finish(source, Delete() if policy == "delete" else Move(str(tmp_path / "sent")), was) is Outcome.LEFT
    assert source.read_bytes() == b"newer bytes, not sent"


def test_edited_just_before_the_lease(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of the same size that sets the old time again, until the lease is taken: its change time is seen."""
    was = sent(source)
    being_written = after._being_written

    def edit_and_look(descriptor: int) -> bool:
        monkeypatch.setattr(after, "_being_written", being_written)
        source.write_bytes(b"NEWER byte")
        os.utime(source, ns=(was.mtime_ns, was.mtime_ns))
        return being_written(descriptor)

    monkeypatch.setattr(after, "_being_written", edit_and_look)
    assert finish(source, Delete(), was) is Outcome.LEFT
    assert source.read_bytes() == b"NEWER byte"


def test_a_file_open_for_writing_is_left(source: Path) -> None:
    """A writer that has not written yet is enough to leave the file alone, until he is gone."""
    was = sent(source)
    with source.open("r+b"), pytest.raises(BeingWritten):
        finish(source, Delete(), was)
    assert source.exists()
    assert finish(source, Delete(), was) is Outcome.DELETED


def test_opened_for_writing_once_it_is_hidden(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has found it under its hidden name, or opened it just before: it gets its name back, and is known."""
    was = sent(source)

    def hide_and_open(old: bytes, new: bytes) -> None:
        rename_without_replacing(old, new)
        monkeypatch.setattr(after, "rename_without_replacing", rename_without_replacing)
        monkeypatch.setattr(after, "_being_written", lambda _: True)

    monkeypatch.setattr(after, "rename_without_replacing", hide_and_open)
    with pytest.raises(BeingWritten) as error:
        finish(source, Delete(), was)
    assert source.read_bytes() == b"sent bytes"
    assert error.value.now == sent(source)


def test_replaced_just_before_it_is_hidden(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was opened is what was sent, and what got the hidden name is not: it gets its own name back."""
    was = sent(source)

    def replace_and_hide(old: bytes, new: bytes) -> None:
        monkeypatch.setattr(after, "rename_without_replacing", rename_without_replacing)
        newer = source.with_name("newer")
        newer.write_bytes(b"NEWER byte")
        os.utime(newer, ns=(was.mtime_ns, was.mtime_ns))
        newer.replace(source)
        rename_without_replacing(old, new)

    monkeypatch.setattr(after, "rename_without_replacing", replace_and_hide)
    assert finish(source, Delete(), was) is Outcome.LEFT
    assert source.read_bytes() == b"NEWER byte"


@pytest.mark.parametrize("stable", [True, False])
def test_inodes_that_drift(source: Path, monkeypatch: pytest.MonkeyPatch, stable: bool) -> None:
    """Where a file gets another inode and change time by itself (FAT, FUSE), size and time decide."""
    was = sent(source)
    drifted = Fingerprint(was.device, was.inode + 1, was.size, was.mtime_ns, was.ctime_ns - 1)
    monkeypatch.setattr(after, "inodes_are_stable", lambda _: stable)
    assert finish(source, Delete(), drifted) is (Outcome.LEFT if stable else Outcome.DELETED)


def test_gone_is_gone(source: Path) -> None:
    """A source that is not there any more needs nothing."""
    was = sent(source)
    source.unlink()
    assert finish(source, Delete(), was) is Outcome.GONE


def hide(source: Path) -> Path:
    """What a crash after the rename leaves behind."""
    hidden = source.parent / os.fsdecode(hidden_for(os.fsencode(source.name), *JOB))
    os.rename(source, hidden)
    return hidden


def test_a_crash_after_hiding_is_finished(source: Path) -> None:
    """The next try removes the hidden file of the same job."""
    was = sent(source)
    hidden = hide(source)
    assert finish(source, Delete(), was) is Outcome.DELETED
    assert not hidden.exists()


def test_a_crash_after_hiding_is_undone_where_the_policy_changed(source: Path) -> None:
    """With `keep` in force by now the source gets its name back."""
    was = sent(source)
    hide(source)
    assert finish(source, Keep(), was) is Outcome.KEPT
    assert source.read_bytes() == b"sent bytes"


def test_a_hidden_file_written_to_is_put_back(source: Path) -> None:
    """A writer that held it open through the rename: its bytes get their name back."""
    was = sent(source)
    hidden = hide(source)
    hidden.write_bytes(b"late bytes")
    assert finish(source, Delete(), was) is Outcome.LEFT
    assert source.read_bytes() == b"late bytes"


def test_putting_back_never_replaces(source: Path) -> None:
    """A newer file has taken the name: both are kept, the older under a visible name."""
    was = sent(source)
    hidden = hide(source)
    hidden.write_bytes(b"late bytes")
    source.write_bytes(b"a newer file")
    assert finish(source, Delete(), was) is Outcome.LEFT
    assert source.read_bytes() == b"a newer file"
    assert (source.parent / "film.mov.chunkyd-kept-7-feed").read_bytes() == b"late bytes"


def test_a_new_file_under_the_name_does_not_stop_the_old_ones_end(source: Path) -> None:
    """The hidden file is removed, the new one under its name is not touched."""
    was = sent(source)
    hidden = hide(source)
    source.write_bytes(b"a newer file")
    assert finish(source, Delete(), was) is Outcome.DELETED
    assert not hidden.exists()
    assert source.read_bytes() == b"a newer file"


def test_move_to_another_file_system(source: Path) -> None:
    """Copied, synced, and only then removed; done again after a crash it makes no second copy."""
    if os.stat("/dev/shm").st_dev == os.stat(source).st_dev:
        pytest.skip("/dev/shm is on the same file system")
    target = Path("/dev/shm") / f"chunkyd-test-{os.getpid()}"
    try:
        was = sent(source)
        content = source.read_bytes()
        assert finish(source, Move(str(target))) is Outcome.MOVED
        moved = target / "sub" / "film.mov"
        assert (moved.read_bytes(), moved.stat().st_mtime_ns) == (content, was.mtime_ns)
        assert not source.exists()
        source.write_bytes(content)  # the crash: copied and named, the hidden source not yet removed
        os.utime(source, ns=(was.mtime_ns, was.mtime_ns))
        again = sent(source)
        hide(source)
        assert finish(source, Move(str(target)), again) is Outcome.MOVED
        assert [each.name for each in moved.parent.iterdir()] == ["film.mov"]
    finally:
        for path in sorted(target.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        target.rmdir()


@pytest.mark.parametrize("length", [1, 200, 255])
def test_a_hidden_file_that_no_job_stands_for(source: Path, length: int) -> None:
    """It gets its own name back, or as much of it as fitted."""
    named = source.rename(source.with_name("n" * length))
    hidden = hide(named)
    assert len(os.fsencode(hidden.name)) <= 255
    given = give_back(os.fsencode(source.parent.parent), b"sub/" + os.fsencode(hidden.name))
    assert given is not None
    assert (source.parent / os.fsdecode(given)).read_bytes() == b"sent bytes"
    assert named.name.startswith(os.fsdecode(given))
    assert length == 255 or given == os.fsencode(named.name)


def test_giving_back_never_replaces(source: Path) -> None:
    """Another file has the name, and a third one the name beside it: all are kept."""
    hidden = hide(source)
    source.write_bytes(b"a newer file")
    beside = source.with_name("film.mov.chunkyd-kept-7-feed")
    beside.write_bytes(b"an older file")
    assert give_back(os.fsencode(source.parent.parent), b"sub/" + os.fsencode(hidden.name)) is not None
    assert source.read_bytes() == b"a newer file"
    assert beside.read_bytes() == b"an older file"
    assert source.with_name(f"{beside.name}.~1~").read_bytes() == b"sent bytes"
    assert not hidden.exists()


@pytest.fixture
def another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that no file can be renamed into from elsewhere."""
    folder = tmp_path / "sent"

    def no_rename(old: bytes, new: bytes) -> None:
        if new.startswith(os.fsencode(folder)) and not old.startswith(os.fsencode(folder)):
            raise OSError(errno.EXDEV, "another file system")
        rename_without_replacing(old, new)

    monkeypatch.setattr(rename, "rename_without_replacing", no_rename)
    return folder


@pytest.fixture(params=[None, errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def unnamed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system knows files without a name; how it says so if not."""
    real = os.open

    def refused(path: bytes, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(request.param, os.strerror(request.param))
        return real(path, flags, mode, dir_fd=dir_fd)

    if request.param is not None:
        monkeypatch.setattr(copying.os, "open", refused)
    return request.param is None


@pytest.mark.parametrize("written", [False, True])
def test_opened_for_writing_while_it_is_copied(
    source: Path, another_file_system: Path, unnamed: bool, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    """A move to another file system: what may be written to by now stays, and its copy goes; it is looked at again."""
    copy = copying._copy

    def copy_and_open(descriptor: int, target: int) -> int:
        copied = copy(descriptor, target)
        assert len(list((another_file_system / "sub").iterdir())) == (not unnamed)
        monkeypatch.setattr(after, "_being_written", lambda _: True)
        if written:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)  # the kernel would, after 45 s
            os.truncate(hidden, 4)
        return copied

    monkeypatch.setattr(copying, "_copy", copy_and_open)
    hidden = source.parent / os.fsdecode(hidden_for(os.fsencode(source.name), *JOB))
    if written:
        assert finish(source, Move(str(another_file_system))) is Outcome.LEFT
    else:
        with pytest.raises(BeingWritten) as error:
            finish(source, Move(str(another_file_system)))
        assert error.value.now == sent(source)
    assert source.read_bytes() == (b"sent" if written else b"sent bytes")
    assert list((another_file_system / "sub").iterdir()) == []


@pytest.mark.parametrize("step", ["written", "synced", "named", "durable"])
def test_killed_while_it_copies(
    source: Path, another_file_system: Path, unnamed: bool, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Nothing is left in the target but a whole copy, whatever becomes of the job; done again, there is one copy."""
    was, folder = sent(source), another_file_system / "sub"
    folder.mkdir(parents=True)
    (folder / source.name).write_bytes(b"of another day")
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(copying, "reached", lambda at: at == f"daemon.copy.{step}" and os.kill(os.getpid(), 9))
        with contextlib.suppress(BaseException):
            finish(source, Move(str(another_file_system)), was)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    named = [f"{source.name}.~1~"] if step in ("named", "durable") else []
    hidden = [] if unnamed or named else [".chunkyd-moving-7-feed"]
    assert sorted(each.name for each in folder.iterdir()) == sorted([source.name, *named, *hidden])
    assert finish(source, Move(str(another_file_system)), was) is Outcome.MOVED
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == {
        "film.mov": b"of another day",
        "film.mov.~1~": b"sent bytes",
    }
    assert list(source.parent.iterdir()) == []


def test_a_long_name_is_cut_at_a_character(source: Path) -> None:
    """Some file systems take no name that ends in half a character."""
    for name in ("é" * 127, "a" + "é" * 127, "ä" * 120 + "日"):
        hidden = hidden_for(os.fsencode(name), *JOB)
        assert hidden.decode("utf-8") and 253 <= len(hidden) <= 255
    assert len(hidden_for(b"\xff" * 255, *JOB)) == 255


@pytest.mark.parametrize("policy", ["delete", "move"])
def test_written_through_a_mapping_where_no_time_moves(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """In memory nothing is written back: the bytes themselves decide, whatever the times say."""
    was = sent(source)
    monkeypatch.setattr(after, "is_in_memory", lambda _: True)
    wanted = Delete() if policy == "delete" else Move(str(tmp_path / "sent"))
    monkeypatch.setattr(after, "_is_version", lambda *_: True)
    monkeypatch.setattr(after, "fingerprint", lambda _: was)
    source.write_bytes(b"SENT BYTES")
    assert finish(source, wanted, was) is Outcome.LEFT
    assert source.read_bytes() == b"SENT BYTES"
    source.write_bytes(b"sent bytes")
    assert finish(source, wanted, was) in (Outcome.DELETED, Outcome.MOVED)


def test_what_is_in_memory() -> None:
    """As the kernel says."""
    if b" /dev/shm tmpfs " not in Path("/proc/mounts").read_bytes():
        pytest.skip("/dev/shm is no tmpfs")
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        assert is_in_memory(file.fileno())
    with open("/proc/self/status", "rb") as file:
        assert not is_in_memory(file.fileno())
