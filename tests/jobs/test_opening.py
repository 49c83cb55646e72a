"""The file itself: broken, newer, older, full, read-only, or on the wrong disk."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.clock import ManualClock
from chunkyd.errors import EXIT_UNREACHABLE, StateError, StorageFull, Unreachable
from chunkyd.jobs.checking import begin_check
from chunkyd.jobs.listing import OfflineListing
from chunkyd.jobs.migrations import MIGRATIONS
from chunkyd.jobs.opening import open_readonly, open_tables
from chunkyd.jobs.queue import Queue
from chunkyd.jobs.states import State
from chunkyd.mounts import file_system
from tests.jobs.shared import HASH, URL, arrive, change, check_table, claim, open_queue


def table(folder: Path) -> Path:
    return folder / "jobs.sqlite3"


def filled(folder: Path, clock: ManualClock) -> None:
    """A table with one job done and one queued, closed."""
    queue = open_queue(folder, clock)
    queue.offer([change(b"a"), change(b"b")])
    arrive(queue, claim(queue))
    queue.close()


def test_nobody_else_reads_it(tmp_path: Path, clock: ManualClock) -> None:
    """The table holds session IDs: it is the owner's alone, and so is the folder that was made for it."""
    folder = tmp_path / "state" / "deeper"
    before = os.umask(0)
    try:
        filled(folder, clock)
    finally:
        os.umask(before)
    assert stat.S_IMODE(table(folder).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_closing_leaves_one_file(tmp_path: Path, clock: ManualClock) -> None:
    """After a clean stop there is no write-ahead log: the table can be read without writing."""
    filled(tmp_path, clock)
    assert os.listdir(tmp_path) == ["jobs.sqlite3"]


@pytest.mark.parametrize("damage", ["garbage", "torn", "zeros"])
def test_a_broken_table_is_moved_aside(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """Loudly, under a dated name, with a new table in its place; a second one never overwrites the first."""
    asides = set()
    for _ in range(2):
        queue = open_queue(tmp_path, clock)
        queue.offer([change(b"%04d" % number) for number in range(500)])
        queue.close()
        content = table(tmp_path).read_bytes()
        middle = len(content) // 8192 * 4096
        broken = {
            "garbage": b"not a database at all " * 1000,
            "torn": content[:middle],
            "zeros": content[:4096] + bytes(middle) + content[4096 + middle :],
        }
        table(tmp_path).write_bytes(broken[damage])
        with caplog.at_level(logging.ERROR):
            opened = open_tables(str(table(tmp_path)), clock)
        assert opened.moved_aside is not None
        assert "damaged" in caplog.text
        assert Path(opened.moved_aside).read_bytes() == broken[damage]
        asides.add(opened.moved_aside)
        queue = Queue(opened.tables, clock)
        assert queue.jobs() == []
        queue.close()
    assert len(asides) == 2


def test_a_check_that_was_begun_before_decides(tmp_path: Path, clock: ManualClock) -> None:
    """Whole, damaged or not to be read: what opening the table comes to is the same as when it checks by itself."""
    filled(tmp_path, clock)
    whole = open_tables(str(table(tmp_path)), clock, check=begin_check(str(table(tmp_path))))
    assert whole.moved_aside is None and len(Queue(whole.tables, clock).jobs()) == 1
    whole.tables.close()
    content = table(tmp_path).read_bytes()
    table(tmp_path).write_bytes(content[:4096] + bytes(4096) + content[8192:])
    damaged = open_tables(str(table(tmp_path)), clock, check=begin_check(str(table(tmp_path))))
    assert damaged.moved_aside is not None and Queue(damaged.tables, clock).jobs() == []
    damaged.tables.close()
    table(tmp_path).unlink()
    table(tmp_path).mkdir()
    check = begin_check(str(table(tmp_path)))
    with pytest.raises(StateError, match="cannot be used"):
        open_tables(str(table(tmp_path)), clock, check=check)


def test_an_empty_file_is_as_good_as_none(tmp_path: Path, clock: ManualClock) -> None:
    """A crash right after the file was made leaves nothing to move aside."""
    table(tmp_path).touch()
    assert open_tables(str(table(tmp_path)), clock).moved_aside is None


def test_a_newer_schema_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    """A table of a newer program is neither used nor moved nor changed."""
    filled(tmp_path, clock)
    with contextlib.closing(sqlite3.connect(table(tmp_path))) as connection:
        connection.execute("PRAGMA user_version = 999")
    before = table(tmp_path).read_bytes()
    with pytest.raises(StateError, match="newer version"):
        open_tables(str(table(tmp_path)), clock)
    assert table(tmp_path).read_bytes() == before
    with pytest.raises(Unreachable, match="newer version"):
        open_readonly(str(table(tmp_path)))


def test_an_older_schema_is_migrated_after_a_copy(tmp_path: Path, clock: ManualClock) -> None:
    """Each step runs once, in one transaction, and the table as it was is kept beside it."""
    filled(tmp_path, clock)
    steps = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN colour TEXT", "UPDATE jobs SET colour = 'red'"))
    opened = open_tables(str(table(tmp_path)), clock, steps)
    assert opened.copied == f"{table(tmp_path)}.before-{len(steps)}"
    assert opened.tables.rows("SELECT DISTINCT colour FROM jobs") == [("red",)]
    opened.tables.close()
    again = open_tables(str(table(tmp_path)), clock, steps)
    assert again.copied is None
    again.tables.close()
    with contextlib.closing(sqlite3.connect(opened.copied)) as copy:
        assert copy.execute("SELECT count(*) FROM jobs").fetchone() == (2,)
        assert copy.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        assert "colour" not in str(copy.execute("SELECT sql FROM sqlite_master").fetchall())


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, clock: ManualClock) -> None:
    """Half a step is never left behind; the program that knows the old schema still works."""
    filled(tmp_path, clock)
    steps = (*MIGRATIONS, ("ALTER TABLE jobs ADD COLUMN colour TEXT", "UPDATE nothing SET there = 'red'"))
    with pytest.raises(StateError):
        open_tables(str(table(tmp_path)), clock, steps)
    queue = open_queue(tmp_path, clock)
    assert [job.path for job in queue.jobs()] == [b"b"]
    check_table(queue)
    queue.close()


def test_a_full_disk_records_nothing_and_is_survived(queue: Queue) -> None:
    """StorageFull is raised, nothing is half recorded, and once there is room all goes on; reading always works."""
    queue.offer([change(b"a")])
    job = claim(queue)
    (pages,) = queue._tables.one("PRAGMA page_count") or (0,)
    queue._tables.connection().execute(f"PRAGMA max_page_count = {pages}")
    many = [change(b"x" * 200 + b"%d" % number) for number in range(3000)]
    with pytest.raises(StorageFull, match="the disk is full"):
        queue.offer(many)
    check_table(queue)
    assert [found.id for found in queue.jobs()] == [job.id]
    queue._tables.connection().execute("PRAGMA max_page_count = 1000000")
    assert queue.offer(many) == 3000
    arrive(queue, job)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, clock: ManualClock) -> None:
    """On a small file system: StorageFull whenever nothing can be written, and no damage afterwards."""
    queue = open_queue(small_disk, clock)
    queue.offer([change(b"a"), change(b"b")])
    job = claim(queue)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    many = [change(b"y" * 200 + b"%d" % number) for number in range(2000)]
    with pytest.raises(StorageFull):
        queue.offer(many)
    check_table(queue)
    filler.unlink()
    assert queue.opened(job, "s", URL, HASH)
    check_table(queue)
    queue.close()
    reopened = open_tables(str(table(small_disk)), clock)
    assert reopened.moved_aside is None
    reopened.tables.close()


def test_reading_without_a_daemon(tmp_path: Path, clock: ManualClock) -> None:
    """After a clean stop lists and history are read without leaving a trace in the folder, even a read-only one."""
    filled(tmp_path, clock)
    table(tmp_path).chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        listing = OfflineListing(open_readonly(str(table(tmp_path))), clock)
        assert [job.path for job in listing.jobs()] == [b"b"]
        assert [job.path for job in listing.history()] == [b"a"]
        assert listing.counts()[State.DONE] == 1
        assert os.listdir(tmp_path) == ["jobs.sqlite3"]
        listing.close()
    finally:
        tmp_path.chmod(0o755)


def test_reading_beside_a_daemon_or_after_its_crash(tmp_path: Path, clock: ManualClock) -> None:
    """What is still in the write-ahead log is read too, and nothing can be written that way."""
    queue = open_queue(tmp_path, clock)
    queue.offer([change(b"a")])
    assert (tmp_path / "jobs.sqlite3-wal").stat().st_size > 0
    listing = OfflineListing(open_readonly(str(table(tmp_path))), clock)
    assert [job.path for job in listing.jobs()] == [b"a"]
    with pytest.raises(StateError), listing._tables.transaction():
        listing._tables.execute("DELETE FROM jobs")
    listing.close()
    queue.close()


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    """No table, or none that can be read: the error says so and is that of an unreachable daemon."""
    with pytest.raises(Unreachable, match="no job table") as missing:
        open_readonly(str(table(tmp_path)))
    assert missing.value.exit_code == EXIT_UNREACHABLE
    assert os.listdir(tmp_path) == []
    table(tmp_path).write_bytes(b"garbage" * 1000)
    with pytest.raises(Unreachable):
        open_readonly(str(table(tmp_path)))


def test_a_closed_queue_says_so(tmp_path: Path, clock: ManualClock) -> None:
    """Whoever comes after the close gets a StateError, not a crash, and makes no new file."""
    queue = open_queue(tmp_path, clock)
    queue.close()
    with pytest.raises(StateError):
        queue.offer([change(b"a")])
    queue.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path, clock: ManualClock) -> None:
    """The error names the folder and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot be used"):
        open_tables(str(tmp_path / "file" / "jobs.sqlite3"), clock)


MOUNTS = rb"""22 1 0:21 / / rw shared:1 - ext4 /dev/root rw
40 22 0:35 / /srv rw - nfs4 server:/srv rw
41 40 0:36 / /srv/local\040disk rw - xfs /dev/sdb rw
42 22 0:37 / /home rw - ext4 /dev/sdc rw
43 42 0:38 / /home rw - cifs //server/home rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/a/b", "nfs4"),
        ("/srvx", "ext4"),
        ("/srv/local disk/a", "xfs"),
        ("/home/me", "cifs"),
    ],
)
def test_the_file_system_of_a_folder(tmp_path: Path, folder: str, kind: str) -> None:
    """The longest mount point counts, of two on one point the later; names with spaces too."""
    mounts = tmp_path / "mountinfo"
    mounts.write_bytes(MOUNTS)
    assert file_system(folder, str(mounts)) == kind


def test_a_network_file_system_is_refused(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state folder on NFS is refused with a way out, before anything is made there."""
    monkeypatch.setattr("chunkyd.mounts.NETWORK", frozenset({file_system(str(tmp_path))}))
    with pytest.raises(StateError, match="network file system"):
        open_tables(str(table(tmp_path)), clock)
    assert os.listdir(tmp_path) == []


def test_a_thread_that_ends_leaves_no_connection(tmp_path: Path) -> None:
    """Its files are closed with it, and not when the collector comes by: each upload begins threads of its own."""
    queue = open_queue(tmp_path, ManualClock())
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        for _ in range(20):
            thread = threading.Thread(target=queue.endings)
            thread.start()
            thread.join()
        assert len(os.listdir("/proc/self/fd")) < before + 10
    finally:
        gc.enable()
    assert queue.endings() == []
    queue.close()
