"""Real inotify, real folders: what changes is told once it has settled."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import threading
import time

import pytest

from chunkyd.watch.shapes import WatchedRoot
from tests.watch.conftest import SETTLE, House, eventually

ODD_NAMES = [
    b"with space",
    b"new\nline",
    "emoji \U0001f3a5.mov".encode(),
    b"\xff\xfe not utf-8",
    b"-rf",
    b"x" * 255,
    b"tab\tand \\ and \"quotes\" and 'more'",
]


def test_a_file_is_told_when_it_has_settled(house: House) -> None:
    """A file dropped in is told in its final version, and no version before it was left alone for the settle time."""
    house.watch()
    path = os.path.join(house.path, b"film.mov")
    with open(path, "wb", buffering=0) as file:
        for _ in range(4):
            file.write(b"frame")
            time.sleep(SETTLE / 2)
    eventually(lambda: house.status().settling == 0 and house.daemon.count(b"film.mov"))
    house.arrived(b"film.mov")
    assert not house.daemon.too_early


def test_what_is_there_at_the_start_is_found(house: House) -> None:
    """Changes made while nobody watched are found by the scan at the start."""
    house.write(b"a")
    house.write(b"deep/down/b")
    house.watch()
    house.arrived(b"a", b"deep/down/b")


def test_what_is_known_is_not_told_again(house: House) -> None:
    """A rescan tells nothing that is queued or sent already, and finds what has changed without an event."""
    house.write(b"a")
    watcher = house.watch()
    house.arrived(b"a")
    assert watcher.rescan("box").wait(10)
    assert watcher.rescan().wait(10)
    assert house.daemon.count(b"a") == 1
    assert house.daemon.heard("scanned") >= 3


@pytest.mark.parametrize("over", ["stopped", "no longer watched"])
def test_nobody_waits_for_a_scan_that_cannot_end(house: House, over: str) -> None:
    """Who waits for a scan that was made but cannot be told comes back when watching ends, and hears that it is not."""
    watcher = house.watch()
    house.daemon.broken = True
    scan = watcher.rescan()
    ended: list[bool] = []
    waiting = threading.Thread(target=lambda: ended.append(scan.wait(60)), daemon=True)
    waiting.start()
    eventually(lambda: house.status().state == "degraded")
    if over == "stopped":
        watcher.stop()
    else:
        watcher.reconfigure([])
    waiting.join(10)
    assert ended == [False]


def test_a_file_written_again_is_told_again(house: House) -> None:
    """Each new version of a file that was left alone in between is told."""
    house.write(b"a", b"one")
    house.watch()
    house.arrived(b"a")
    house.write(b"a", b"two")
    eventually(lambda: house.daemon.count(b"a") == 2)
    house.arrived(b"a")


def test_a_file_that_stays_open_is_told_and_told_again(house: House) -> None:
    """A writer that never closes its file is seen all the same."""
    house.watch()
    with open(os.path.join(house.path, b"log"), "wb", buffering=0) as file:
        file.write(b"one")
        house.arrived(b"log")
        file.write(b"two")
        eventually(lambda: house.daemon.count(b"log") == 2)


def test_a_writer_that_pauses_is_waited_for(house: House, leases: None) -> None:
    """A pause longer than the settle time is no end while the file is open; closing it is."""
    house.watch()
    with open(os.path.join(house.path, b"dump"), "wb", buffering=0) as file:
        file.write(b"one")
        os.close(os.open(os.path.join(house.path, b"other"), os.O_CREAT | os.O_WRONLY))
        house.arrived(b"other")  # written later, and left alone as long
        assert house.daemon.count(b"dump") == 0
        file.write(b"two")
    house.arrived(b"dump")
    assert house.daemon.count(b"dump") == 1


def test_rename_over(house: House) -> None:
    """An editor's and rsync's way to save: a temporary renamed over the file; the temporary itself is gone."""
    house.write(b"doc", b"old")
    house.watch()
    house.arrived(b"doc")
    temporary = house.write(b".doc.Xy12", b"new")
    os.replace(temporary, os.path.join(house.path, b"doc"))
    eventually(lambda: house.daemon.count(b"doc") == 2)
    house.arrived(b"doc")
    eventually(lambda: house.daemon.heard("gone", b".doc.Xy12"))
    assert house.daemon.count(b".doc.Xy12") == 0


def test_a_deletion_is_hinted(house: House) -> None:
    """A file that is deleted, and one that is moved out, are told as gone."""
    first, second = house.write(b"d/first"), house.write(b"second")
    house.watch()
    house.arrived(b"d/first", b"second")
    os.unlink(first)
    os.rename(second, house.path + b"-elsewhere")
    eventually(lambda: house.daemon.heard("gone", b"d/first") and house.daemon.heard("gone", b"second"))
    assert not house.daemon.heard("missing")


@pytest.mark.parametrize("poll", [False, True])
def test_odd_names(house: House, poll: bool) -> None:
    """Names are bytes: newlines, emoji, 255 bytes, bytes that are not UTF-8, in files and in directories."""
    house.write(b"before/\xff/\n")
    watcher = house.watch(poll=poll)
    for name in ODD_NAMES:
        house.write(name)
        house.write(b"dir " + name[:200] + b"/" + name)
    watcher.rescan().wait(10)
    house.arrived(b"before/\xff/\n", *ODD_NAMES, *(b"dir " + name[:200] + b"/" + name for name in ODD_NAMES))


def test_a_tree_moved_in_and_out_and_about(house: House) -> None:
    """One event for a whole tree is enough, wherever it comes from; what happens in it afterwards is seen."""
    house.watch()
    outside = house.folder.parent / "outside"
    (outside / "a" / "b").mkdir(parents=True)
    (outside / "a" / "b" / "file").write_bytes(b"x")
    (outside / "top").write_bytes(b"x")
    os.rename(outside, house.folder / "in")
    house.arrived(b"in/a/b/file", b"in/top")
    os.rename(house.folder / "in", house.folder / "renamed")
    house.arrived(b"renamed/a/b/file", b"renamed/top")
    house.write(b"renamed/a/b/later")
    house.arrived(b"renamed/a/b/later")
    os.rename(house.folder / "renamed", house.folder.parent / "out")
    eventually(lambda: house.daemon.heard("gone", b"renamed"))
    (house.folder.parent / "out" / "a" / "unseen").write_bytes(b"x")
    house.write(b"seen")
    house.arrived(b"seen")
    assert not any(b"unseen" in path for path in house.daemon.paths())


def test_directories_swap_names(house: House) -> None:
    """Two directories that exchange their names keep each its watch: later files come under the right path."""
    house.write(b"one/1")
    house.write(b"two/2")
    house.watch()
    house.arrived(b"one/1", b"two/2")
    one, two, aside = house.folder / "one", house.folder / "two", house.folder / "aside"
    os.rename(one, aside)
    os.rename(two, one)
    os.rename(aside, two)
    house.arrived(b"one/2", b"two/1")
    house.write(b"one/new")
    house.write(b"two/newer")
    house.arrived(b"one/new", b"two/newer")
    assert b"two/new" not in house.daemon.paths()


def test_a_tree_copied_in(house: House) -> None:
    """`cp -a` of a deep tree into a new directory: every file comes, though most events came before a watch."""
    source = house.folder.parent / "source"
    names = [b"d%d/e%d/f%d" % (a, b, c) for a in range(12) for b in range(10) for c in range(10)]
    for name in names:
        path = os.path.join(os.fsencode(source), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
    house.watch()
    subprocess.run(["cp", "-a", source, house.folder / "copy"], check=True)
    house.arrived(*(b"copy/" + name for name in names))
    assert house.status().directories == 2 + 12 + 12 * 10


def test_a_deep_tree_made_step_by_step_is_read_once(house: House) -> None:
    """Nothing grows with the square: each level of a new tree is read a few times, not once per level above."""
    house.watch()
    before = house.daemon.asked
    depth = 60
    for level in range(1, depth + 1):
        directory = b"/".join([b"d"] * level)
        house.write(directory + b"/file")
    house.arrived(*(b"/".join([b"d"] * level) + b"/file" for level in range(1, depth + 1)))
    assert house.daemon.asked - before <= 3 * depth


@pytest.mark.parametrize(("only_first", "questions"), [(False, range(4, 17)), (True, range(84, 85))])
def test_known_versions_are_asked_for_ahead(house: House, only_first: bool, questions: range) -> None:
    """A scan asks for many folders at once, and for those that are left out again; nothing known is told once more."""
    names = [b"%d/%d/file" % (outer, inner) for outer in range(7) for inner in range(12)]
    for name in names:
        house.write(name)
    watcher = house.watch()
    house.arrived(*names)
    house.daemon.only_first = only_first
    asked, told = house.daemon.asked, house.daemon.told
    assert watcher.rescan().wait(15)
    assert house.daemon.asked - asked in questions
    assert house.daemon.told == told
    assert house.status().settling == 0


def test_only_regular_files(house: House) -> None:
    """Symlinks, FIFOs and sockets are skipped and counted; no symlinked directory is followed, no FIFO opened."""
    outside = house.folder.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"x")
    (house.folder / "link").symlink_to(outside / "secret")
    (house.folder / "linked").symlink_to(outside)
    os.mkfifo(house.folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(house.folder / "socket"))
        house.write(b"file")
        watcher = house.watch()
        (house.folder / "later").symlink_to(outside)
        os.mkfifo(house.folder / "fifo2")
        house.write(b"file2")
        house.arrived(b"file", b"file2")
        assert watcher.rescan().wait(10)
    assert house.daemon.paths() == {b"file", b"file2"}
    assert house.status().skipped == 6
    assert house.status().files == 2


def test_a_directory_that_becomes_a_symlink(house: House) -> None:
    """A file that settles is not reported through a symlink that took its directory's place."""
    outside = house.folder.parent / "outside"
    outside.mkdir()
    house.watch()
    house.write(b"d/film")
    shutil.copy2(house.folder / "d" / "film", outside / "film")
    shutil.rmtree(house.folder / "d")
    (house.folder / "d").symlink_to(outside)
    house.write(b"after")
    house.arrived(b"after")
    eventually(lambda: house.status().settling == 0)
    assert b"d/film" not in house.daemon.paths()


def test_hard_links_are_files(house: House) -> None:
    """Two names of one file are two files to send."""
    path = house.write(b"one")
    house.watch()
    os.link(path, os.path.join(house.path, b"two"))
    house.arrived(b"one", b"two")


def test_excluded_directories_are_not_entered(house: House) -> None:
    """What is excluded costs no watch and no look, and is never told."""
    house.write(b".cache/a/b/file")
    watcher = house.watch(exclude=(".cache/",))
    house.write(b".cache/a/c/other")
    house.write(b"x.part")
    house.write(b"kept")
    house.arrived(b"kept")
    assert watcher.rescan().wait(10)
    assert house.status().directories == 1
    assert house.daemon.paths() == {b"kept"}


def test_a_file_that_keeps_changing(house: House) -> None:
    """A file that never settles is not told, and is shown as changing."""
    house.watch(settle=0.5)
    path = os.path.join(house.path, b"log")
    deadline = time.monotonic() + 20

    def grows() -> bool:
        with open(path, "ab") as file:
            file.write(b"line\n")
        time.sleep(SETTLE / 10)
        return house.status().changing == 1

    while not grows():
        assert time.monotonic() < deadline
    assert house.status().changing_paths == (b"log",)
    house.arrived(b"log")
    eventually(lambda: house.status().changing == 0)


def test_nothing_is_lost_when_the_daemon_cannot_take_it(house: House) -> None:
    """While the job table refuses, changes wait, the status says so, and they are told when it works again."""
    house.watch()
    house.daemon.broken = True
    house.write(b"a")
    gone = house.write(b"b")
    eventually(lambda: house.status().state == "degraded")
    assert "locked" in house.status().problem
    os.unlink(gone)
    house.daemon.broken = False
    house.arrived(b"a")
    eventually(lambda: house.status().state == "watching")


def test_a_scan_waits_for_the_job_table(house: House) -> None:
    """A scan that cannot ask what is known waits, and reports nothing twice."""
    house.write(b"a")
    watcher = house.watch()
    house.arrived(b"a")
    house.daemon.broken = True
    scan = watcher.rescan()
    assert not scan.wait(0.3)
    house.daemon.broken = False
    assert scan.wait(15)
    assert house.daemon.count(b"a") == 1


def test_changes_of_configuration(house: House) -> None:
    """Roots are added, removed and changed; one that stays as it is goes on without a new scan."""
    other = house.folder.parent / "other"
    other.mkdir()
    (other / "file").write_bytes(b"x")
    watcher = house.watch()
    scans = house.daemon.heard("scanned", "box")
    watcher.reconfigure([house.root(), WatchedRoot("other", str(other), settle=SETTLE)])
    eventually(lambda: b"file" in house.daemon.paths())
    assert house.daemon.heard("scanned", "box") == scans
    watcher.reconfigure([house.root(exclude=("*.tmp",))])
    assert [status.folder for status in watcher.status()] == ["box"]
    eventually(lambda: house.daemon.heard("scanned", "box") == scans + 1)
    house.write(b"a.tmp")
    house.write(b"a")
    house.arrived(b"a")
    assert b"a.tmp" not in house.daemon.paths()
    assert watcher.alive()
    with pytest.raises(KeyError):
        watcher.rescan("other")


def test_a_dead_reader_is_revived(house: House) -> None:
    """When the thread that reads events ends, it is started again, and what was missed is found."""
    watcher = house.watch()
    reader = watcher._observer._reader
    assert reader is not None
    reader.stop()
    reader.join(5)
    house.write(b"missed")
    house.arrived(b"missed")
    eventually(watcher._observer.alive)
    eventually(lambda: house.daemon.heard("scanned") >= 2)
    house.write(b"seen")
    house.arrived(b"seen")


def test_a_bug_in_one_folder_is_told(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """A thread that ends by a bug is logged and seen by the watchdog; another folder goes on."""
    other = house.folder.parent / "other"
    other.mkdir()
    watcher = house.watch()
    assert watcher.alive()
    house.daemon.bug = "other"
    watcher.reconfigure([house.root(), WatchedRoot("other", str(other), settle=SETTLE)])
    eventually(lambda: not watcher.alive())
    status = {status.folder: status for status in watcher.status()}
    assert "ended unexpectedly" in status["other"].problem
    assert "other" in caplog.text
    house.write(b"a")
    house.arrived(b"a")


def test_stop_is_quick_and_leaves_nothing(house: House) -> None:
    """After stop no thread of the watcher is left, and no watch."""
    watcher = house.watch()
    began = time.monotonic()
    watcher.stop()
    assert time.monotonic() - began < 5
    assert watcher.status() == []
    assert watcher._observer._reader is None


def test_an_unreadable_directory(house: House) -> None:
    """What may not be read is named, the rest goes on, nothing in it is gone; readable again it is found."""
    if os.geteuid() != 0:
        pytest.skip("needs to change the user")
    house.write(b"closed/inside")
    house.write(b"open/file")
    os.chmod(house.folder.parent, 0o777)
    os.chmod(house.folder / "closed", 0o700)
    os.seteuid(65534)
    try:
        house.watch()
        house.arrived(b"open/file")
        status = house.status()
        assert status.state == "degraded"
        assert "closed" in status.problem
        assert os.strerror(errno.EACCES) in status.problem
        assert not house.daemon.heard("gone")
        os.seteuid(0)
        os.chmod(house.folder / "closed", 0o755)
        os.seteuid(65534)
        house.arrived(b"closed/inside")
        eventually(lambda: house.status().state == "watching")
    finally:
        os.seteuid(0)
