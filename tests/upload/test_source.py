"""The source: what it refuses, what it notices, and that it never keeps a writer waiting."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import crc32c
import pytest

from chunkyd.errors import Interrupted, SourceChanged, SourceGone, SourceUnreadable
from chunkyd.files import Fingerprint
from chunkyd.upload.source import Source
from tests.faults.strict_disk import strict_disk


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * 1024 * 1024 + 17))
    return path


def test_no_hash_is_remembered_of_a_file_in_memory() -> None:
    """However old its times are: they do not tell of a write through a mapping."""
    if b" /dev/shm tmpfs " not in Path("/proc/mounts").read_bytes():
        pytest.skip("/dev/shm is no tmpfs")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        path = Path(memory) / "file"
        path.write_bytes(b"content")
        source = Source(str(path))
        try:
            assert not source.has_settled(time.time() + 3600)
        finally:
            source.close()


def nothing(*_: object) -> None:
    """Go on."""


def test_it_hashes_what_is_there(file: Path) -> None:
    """The file hash and a range's CRC-32C are those of the bytes."""
    source = Source(str(file))
    content = file.read_bytes()
    assert source.sha256(nothing) == hashlib.sha256(content).hexdigest()
    assert source.crc32c((5, 2_000_000), nothing) == crc32c.crc32c(content[5:2_000_000]).to_bytes(4, "big")
    source.close()


def test_only_regular_files(tmp_path: Path) -> None:
    """A FIFO without a writer, a folder, a socket and a symbolic link are refused at once."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/hostname")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name in ("fifo", "folder", "link", "socket"):
            with pytest.raises(SourceUnreadable):
                Source(str(tmp_path / name))


def test_a_file_that_does_not_know_its_size() -> None:
    """It says that it has no bytes: nothing that is sent of it would be what it holds."""
    assert os.stat("/proc/version").st_size == 0
    with pytest.raises(SourceUnreadable, match="copy it"):
        Source(b"/proc/version")


def test_a_missing_file_is_gone(tmp_path: Path) -> None:
    """No file, and no folder where one was, are SourceGone."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file" / "below"):
        with pytest.raises(SourceGone):
            Source(str(path))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """A name is bytes; its error text is readable."""
    path = os.fsencode(tmp_path) + b"/\xff\xfe"
    with pytest.raises(SourceGone, match=r"\\xff\\xfe"):
        Source(path)
    Path(os.fsdecode(path)).write_bytes(b"x")
    source = Source(path)
    assert source.read(0, 10) == b"x"
    source.close()


@pytest.mark.parametrize("change", ["write", "truncate", "touch", "chmod"])
def test_a_change_is_noticed(file: Path, change: str) -> None:
    """Whatever is done to the file shows in the next check."""
    source = Source(str(file))
    source.check()
    time_before = os.stat(file).st_ctime_ns
    if change == "write":
        with file.open("r+b") as writing:
            writing.write(b"!")
    elif change == "truncate":
        os.truncate(file, 10)
    elif change == "touch":
        os.utime(file, ns=(1, 1))
    else:
        file.chmod(0o600)
    assert os.stat(file).st_ctime_ns != time_before
    with pytest.raises(SourceChanged):
        source.check()
    source.close()


def test_a_file_that_shrinks_is_a_change_not_a_crash(file: Path) -> None:
    """Reading behind the new end, hashing and checksumming raise SourceChanged."""
    source = Source(str(file))
    os.truncate(file, 1024 * 1024)
    for reading in (
        lambda: source.read(2_000_000, 10),
        lambda: source.sha256(nothing),
        lambda: source.crc32c((0, 3_000_000), nothing),
    ):
        with pytest.raises(SourceChanged):
            reading()
    source.close()


def test_a_file_that_changes_while_it_is_hashed_gets_no_hash(file: Path) -> None:
    """A change in the middle of the hash is found at its end."""

    def write(done: int) -> None:
        if done:
            with file.open("r+b") as writing:
                writing.write(os.urandom(4))

    source = Source(str(file))
    with pytest.raises(SourceChanged):
        source.sha256(write)
    source.close()


def test_a_file_replaced_by_rename_is_read_in_its_old_version(file: Path) -> None:
    """The open file is what counts: its bytes stay, and the check passes as long as the path is there."""
    content = file.read_bytes()
    source = Source(str(file))
    newer = file.with_name("newer")
    newer.write_bytes(b"new")
    os.replace(newer, file)
    source.check()
    assert source.sha256(nothing) == hashlib.sha256(content).hexdigest()
    source.close()


def test_a_file_that_was_deleted_is_gone(file: Path) -> None:
    """Without its path a file is not sent to the end."""
    source = Source(str(file))
    file.unlink()
    with pytest.raises(SourceGone):
        source.check()
    source.close()


def test_a_locked_file_is_left_alone(file: Path) -> None:
    """An exclusive flock of another program means: not now."""
    with file.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SourceChanged, match="locked"):
            Source(str(file))
    Source(str(file)).close()


def test_it_holds_a_shared_lock(file: Path) -> None:
    """While it is open nobody gets an exclusive lock; after the last user has left, anybody."""
    source = Source(str(file))
    source.share()
    source.close()
    with file.open("rb") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        source.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_hashing_can_be_interrupted(file: Path) -> None:
    """What `proceed` raises ends the hash."""

    def stop(done: int) -> None:
        if done > 1_000_000:
            raise Interrupted("stopped")

    source = Source(str(file))
    with pytest.raises(Interrupted):
        source.sha256(stop)
    source.close()


_LEASE = """
import sys, time
from chunkyd.errors import SourceChanged
from chunkyd.upload.source import Source, install_lease_handler
install_lease_handler()
source = Source(sys.argv[1])
print("leased" if source._leased else "none", flush=True)
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    try:
        source.keep_lease()
    except SourceChanged:
        print("asked back", flush=True)
        break
    time.sleep(0.02)
print(source.read(0, 1) != b"", flush=True)
sys.stdin.read()
"""


def test_a_lease_is_given_back_at_once_and_the_process_lives(file: Path) -> None:
    """A writer that comes is let in within a second or so, the reader knows of it, and SIGIO kills nobody."""
    reader = subprocess.Popen(
        [sys.executable, "-c", _LEASE, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None and reader.stdin is not None
    try:
        if reader.stdout.readline() != "leased\n":
            pytest.skip("no leases on this file system")
        entered = threading.Event()

        def write() -> None:
            with file.open("r+b"):
                entered.set()

        threading.Thread(target=write, daemon=True).start()
        assert entered.wait(15)  # unheeded, a lease keeps a writer out for 45 s
        assert reader.stdout.readline() == "asked back\n"
        assert reader.stdout.readline() == "True\n"
        reader.stdin.close()
        assert reader.wait(10) == 0
    finally:
        reader.kill()
        reader.wait(10)
        reader.stdout.close()


def test_without_the_handler_no_lease_is_taken(file: Path) -> None:
    """A library user who did not ask for leases is never sent a deadly signal."""
    source = Source(str(file))
    began = time.monotonic()
    with file.open("r+b"):
        pass
    assert time.monotonic() - began < 30
    source.close()


def test_what_to_remember_of_a_file_depends_on_its_file_system(tmp_path: Path) -> None:
    """Inode numbers mean something on a disk, and nothing where the kernel makes them up (here FUSE)."""
    (tmp_path / "file").write_bytes(b"bytes")
    with contextlib.closing(Source(str(tmp_path / "file"))) as source:
        assert source.identity() == source.fingerprint
    with strict_disk(tmp_path / "disk") as disk:
        (disk.path / "file").write_bytes(b"bytes")
        with contextlib.closing(Source(str(disk.path / "file"))) as source:
            found = source.fingerprint
            assert source.identity() == Fingerprint(0, 0, found.size, found.mtime_ns, 0)
