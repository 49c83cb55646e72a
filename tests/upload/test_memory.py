"""The library's memory: sessions and hashes over crashes, shared by threads and processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from chunkyd.errors import StateError, StorageFull
from chunkyd.files import Fingerprint
from chunkyd.upload import Remembered, SqliteMemory, UploadKey

KEY = UploadKey("http://a", b"/\xff", b"\xff")
PRINT = Fingerprint(device=2**64 - 1, inode=2**64 - 2, size=5, mtime_ns=-1, ctime_ns=7)


def session(number: int, file_hash: str = "h") -> Remembered:
    return Remembered(f"s{number}", file_hash, PRINT, 5)


@pytest.fixture
def memory(tmp_path: Path):
    memory = SqliteMemory(str(tmp_path / "state" / "uploads.sqlite3"))
    yield memory
    memory.close()


def test_it_recalls_what_it_remembered(memory: SqliteMemory) -> None:
    """A session comes back with every bit of its fingerprint; other keys see nothing of it."""
    memory.remember(KEY, session(1))
    assert memory.recall(KEY) == session(1)
    assert memory.recall(UploadKey("http://b", KEY.source, KEY.path)) is None


@pytest.mark.parametrize("mtime_ns", [2**63, 253_402_300_799_999_999_999, -62_135_596_800_000_000_001])
def test_times_of_far_years_come_back(memory: SqliteMemory, mtime_ns: int) -> None:
    """Nanoseconds of the year 2400 and later need more than 64 bits, and are remembered to the last one."""
    far = Fingerprint(device=1, inode=2, size=5, mtime_ns=mtime_ns, ctime_ns=mtime_ns + 1)
    memory.remember(KEY, Remembered("s1", "h", far, 5))
    memory.remember_hash(KEY, far, "h")
    assert memory.recall(KEY) == Remembered("s1", "h", far, 5)
    assert memory.known_hash(KEY, far) == "h"


def test_another_version_moves_the_old_session_to_the_endings(memory: SqliteMemory) -> None:
    """A superseded session is not lost: it waits to be ended."""
    memory.remember(KEY, session(1, "old"))
    assert memory.remember(KEY, session(2, "new")) == session(2, "new")
    assert memory.endings(KEY.url) == [("s1", "old")]
    memory.ended(KEY.url, "s1")
    assert memory.endings(KEY.url) == []


def test_the_first_session_of_a_version_counts(memory: SqliteMemory) -> None:
    """Of two processes that open a session for the same version the second one gets the first's."""
    memory.remember(KEY, session(1))
    assert memory.remember(KEY, session(2)) == session(1)
    assert memory.endings(KEY.url) == [("s2", "h")]


def test_a_session_that_is_given_again_is_not_to_be_ended(memory: SqliteMemory) -> None:
    """One that was to be ended, and that the server gives for the same initiate again, is in use: nobody ends it."""
    memory.remember(KEY, session(1))
    memory.forget(KEY, "s1")
    assert memory.remember(KEY, session(1)) == session(1)
    assert memory.endings(KEY.url) == []


def test_completed_and_given_up_sessions_wait_to_be_ended(memory: SqliteMemory) -> None:
    """Neither is forgotten before the server says that it is gone."""
    memory.remember(KEY, session(1))
    memory.completed(KEY)
    assert memory.recall(KEY) is None
    memory.remember(KEY, session(2))
    memory.forget(KEY, "s2")
    assert memory.recall(KEY) is None
    assert sorted(memory.endings(KEY.url)) == [("s1", "h"), ("s2", "h")]


def test_forgetting_a_session_that_no_longer_counts_leaves_the_one_that_does(memory: SqliteMemory) -> None:
    """A slow process cannot take away the session a fast one has opened since."""
    memory.remember(KEY, session(2))
    memory.forget(KEY, "s1")
    assert memory.recall(KEY) == session(2)


def test_a_hash_serves_only_its_version(memory: SqliteMemory) -> None:
    """Another inode, size or time: no hash. Another device number: the same file after a reboot."""
    memory.remember_hash(KEY, PRINT, "h")
    assert memory.known_hash(KEY, PRINT) == "h"
    assert memory.known_hash(KEY, Fingerprint(1, PRINT.inode, 5, -1, 7)) == "h"
    for other in (Fingerprint(1, 1, 5, -1, 7), Fingerprint(1, PRINT.inode, 6, -1, 7)):
        assert memory.known_hash(KEY, other) is None
    memory.forget(KEY, "none", rehash=True)
    assert memory.known_hash(KEY, PRINT) is None


def test_threads_and_processes_agree_on_one_session(tmp_path: Path) -> None:
    """However many open one at once, all come away with the same."""
    path = str(tmp_path / "uploads.sqlite3")
    SqliteMemory(path).close()
    code = (
        "import sys; from chunkyd.upload import *; from chunkyd.files import Fingerprint\n"
        "m = SqliteMemory(sys.argv[1]); k = UploadKey('u', b's', b'p')\n"
        "print(m.remember(k, Remembered(sys.argv[2], 'h', Fingerprint(1,2,3,4,5), 3)).session_id)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, path, f"p{n}"], stdout=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    memory = SqliteMemory(path)
    got: list[str] = []
    key = UploadKey("u", b"s", b"p")

    def remember(number: int) -> None:
        counting = memory.remember(key, Remembered(f"t{number}", "h", Fingerprint(1, 2, 3, 4, 5), 3))
        got.append(counting.session_id)

    threads = [threading.Thread(target=remember, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    got += [process.communicate(timeout=30)[0].strip() for process in processes]
    assert len(got) == 7
    assert len(set(got)) == 1
    assert len(memory.endings("u")) == 6
    memory.close()


def test_a_broken_file_is_said(tmp_path: Path) -> None:
    """A file that is no database, and a folder that cannot be, are StateErrors that name the path."""
    (tmp_path / "broken").write_bytes(b"not a database" * 100)
    for path in (tmp_path / "broken", tmp_path / "broken" / "below"):
        with pytest.raises(StateError, match="broken"):
            SqliteMemory(str(path))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sessions SET session_id = 'a' || char(13) || char(10) || 'b'",
        "UPDATE sessions SET session_id = x'00ff'",
        "UPDATE sessions SET file_hash = ''",
        "UPDATE sessions SET total_bytes = -1",
        "UPDATE sessions SET total_bytes = 'many'",
        "UPDATE sessions SET mtime_ns = x'01'",
        "UPDATE sessions SET mtime_ns = 1.5",
        "UPDATE sessions SET inode = 'x'",
        "DROP TABLE sessions",
    ],
)
def test_a_damaged_row_is_said(memory: SqliteMemory, damage: str) -> None:
    """What was never written is a StateError that names the path: it reaches no header and ends no program."""
    memory.remember(KEY, session(1))
    with sqlite3.connect(memory.path) as database:
        database.execute(damage)
    with pytest.raises(StateError, match=r"uploads\.sqlite3"):
        memory.recall(KEY)
    with pytest.raises(StateError, match=r"uploads\.sqlite3"):
        memory.remember(KEY, session(2))


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_only_a_regular_file_is_a_memory(tmp_path: Path, kind: str) -> None:
    """Anything else is refused and left as it is: /dev/null keeps its mode, which every program relies on."""
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir(0o755)
    elif kind == "fifo":
        os.mkfifo(path, 0o644)
    else:
        path.symlink_to("/dev/null")
    before = path.stat()
    with pytest.raises(StateError, match="not a regular file"):
        SqliteMemory(str(path))
    assert path.stat().st_mode == before.st_mode


def test_only_its_owner_reads_it_and_what_is_none_keeps_its_mode(tmp_path: Path) -> None:
    """The file of the memory is 0600, also one that was not; somebody's other file is not touched."""
    (tmp_path / "noise").write_bytes(os.urandom(9000))
    (tmp_path / "noise").chmod(0o644)
    with pytest.raises(StateError):
        SqliteMemory(str(tmp_path / "noise"))
    assert (tmp_path / "noise").stat().st_mode & 0o777 == 0o644
    (tmp_path / "empty").touch(0o644)
    for name in ("empty", "new"):
        SqliteMemory(str(tmp_path / name)).close()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    """What a later version wrote is not touched."""
    path = tmp_path / "uploads.sqlite3"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(StateError, match=r"newer.*Update this program"):
        SqliteMemory(str(path))
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_full_disk_is_storage_full_and_loses_nothing(tmp_path: Path) -> None:
    """On a full disk nothing new is remembered, what was stays, and with room it goes on."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    point = tmp_path / "disk"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(point)], check=True)
    try:
        memory = SqliteMemory(str(point / "uploads.sqlite3"))
        memory.remember(KEY, session(1))
        (point / "filler").write_bytes(b"x" * (os.statvfs(point).f_bavail * 4096))
        with pytest.raises(StorageFull):
            for number in range(2000):
                memory.remember(UploadKey("u", str(number).encode(), b"p" * 200), session(number))
        assert memory.recall(KEY) == session(1)
        (point / "filler").unlink()
        memory.remember(UploadKey("v", b"s", b"p"), session(3))
        memory.close()
    finally:
        subprocess.run(["umount", "--lazy", str(point)], check=False)


def test_many_begin_the_file_at_the_same_moment(tmp_path: Path) -> None:
    """Programs started together, where no memory was before: each opens it, none is told that it is locked."""
    failures: list[BaseException] = []

    def begin(path: Path, together: threading.Barrier) -> None:
        together.wait(20)
        try:
            SqliteMemory(str(path)).close()
        except StateError as error:
            failures.append(error)

    for number in range(10):
        together = threading.Barrier(6)
        path = tmp_path / f"{number}.sqlite3"
        threads = [threading.Thread(target=begin, args=(path, together)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(40)
    assert failures == []


def test_a_part_of_a_hash_goes_with_its_session(memory: SqliteMemory) -> None:
    """It is recalled with the session it was taken in, and neither another session nor its successor gets it."""
    memory.remember(KEY, session(1))
    memory.remember_part(KEY, "other", "64:aa")
    assert memory.recall(KEY) == session(1)
    memory.remember_part(KEY, "s1", "64:bb")
    recalled = memory.recall(KEY)
    assert recalled is not None and recalled.hash_part == "64:bb"
    memory.forget(KEY, "s1")
    memory.remember(KEY, session(2))
    assert memory.recall(KEY) == session(2)
