"""Files that are written, kept or named in unusual ways; the real programs."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkyd.control.client import ControlClient
from tests.e2e.programs import Daemon, Server, run, running, sha256, wait_until
from tests.faults.mounts import disks
from tests.faults.stage import Stage

MIB = 1 << 20
UPLOADS = {"retry": {"base": "100ms", "max": "1s"}}


class Box:
    """A watched folder, a daemon and a server."""

    def __init__(self, base: Path, **folder: Any) -> None:
        self.path = base / "outbox"
        self.path.mkdir()
        self.server = Server(base)
        watched = {"path": str(self.path), "name": "outbox", **folder}
        self.daemon = Daemon(base, self.server.url, [watched], uploads=UPLOADS)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Both run."""
        with running(self.server), running(self.daemon):
            yield

    def has(self, name: str | bytes, content: bytes, seconds: float = 30.0) -> None:
        """The server comes to have exactly this."""
        published = os.path.join(os.fsencode(self.server.files()), b"outbox", os.fsencode(name))

        def there() -> bool:
            return os.path.exists(published) and Path(os.fsdecode(published)).read_bytes() == content

        wait_until(f"{name!r} arrives", there, seconds, self.daemon.text)


@pytest.fixture
def box(tmp_path: Path) -> Callable[..., Box]:
    """Makes one."""
    return lambda **options: Box(tmp_path, **options)


@pytest.mark.parametrize("closed", [False, True], ids=["while it is open", "after it was closed"])
def test_written_through_a_mapping(box: Callable[..., Box], closed: bool) -> None:
    """No event tells of it: what the mapping holds in the end arrives, by the file's own times, at the next rescan."""
    both = box(rescan="1s")
    with both.served():
        file = os.open(both.path / "mapped", os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(file, MIB)
        with mmap.mmap(file, MIB) as pages:
            if closed:
                os.close(file)
            for number in range(8):
                pages[number * 100_000 : number * 100_000 + 1000] = os.urandom(1000)
                pages.flush()
                time.sleep(0.3)
            content = bytes(pages)
        if not closed:
            os.close(file)
        both.has("mapped", content)


@pytest.mark.parametrize("policy", ["delete", pytest.param("keep", marks=pytest.mark.long)])
def test_written_through_a_mapping_while_it_is_sent(tmp_path: Path, policy: str) -> None:
    """To a page that was written to before, which of itself moves no time: seen, not deleted, and sent."""
    with Stage(tmp_path, box={"after_upload": policy, "rescan": "1s"}) as stage:
        stage.start_server()
        path = stage.put("mapped")
        with path.open("r+b") as file:
            pages = mmap.mmap(file.fileno(), 0)
        pages[:8] = b"version1"
        stage.daemon.arm("upload.complete.heard=stop")
        stage.daemon.start()
        stage.daemon.wait_stopped(60)
        if not _is_seen(tmp_path):
            pytest.skip("on this file system no write through a mapping moves a time")
        pages[:8] = b"version2"
        content = bytes(pages)
        pages.close()
        stage.daemon.go_on()
        arrived = stage.server.files() / "outbox" / "mapped"
        wait_until("the last version arrives", lambda: arrived.read_bytes() == content, 60, stage.daemon.text)
        wait_until("it is deleted, or kept", lambda: path.exists() == (policy == "keep"), 30, stage.daemon.text)


def test_written_through_a_mapping_in_memory() -> None:
    """On tmpfs, where it moves no time while the file is sent: not deleted before those bytes have arrived."""
    if b" /dev/shm tmpfs " not in Path("/proc/mounts").read_bytes():
        pytest.skip("/dev/shm is no tmpfs")
    box = {"after_upload": "delete", "rescan": "1s", "settle": "50ms"}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, Stage(Path(folder), box=box) as stage:
        stage.start_server()
        path = stage.put("mapped")
        with path.open("r+b") as file:
            pages = mmap.mmap(file.fileno(), 0)
        pages[:8] = b"version1"
        stage.daemon.arm("upload.complete.heard=stop")
        stage.daemon.start()
        stage.daemon.wait_stopped(60)
        pages[:8] = b"version2"
        content = bytes(pages)
        pages.close()
        stage.daemon.go_on()
        # Hidden for a moment while it is compared, it is gone too; but not without a job.
        wait_until("it is deleted", lambda: not stage.jobs() and not path.exists(), 60, stage.daemon.text)
        arrived = stage.server.files() / "outbox"
        assert content in [each.read_bytes() for each in arrived.iterdir()]


def test_written_through_a_mapping_in_memory_while_it_is_sent() -> None:
    """Before and behind what was sent already: what is published is a version that it had, never a mixture of two."""
    if b" /dev/shm tmpfs " not in Path("/proc/mounts").read_bytes():
        pytest.skip("/dev/shm is no tmpfs")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, Stage(Path(folder), box={"settle": "50ms"}) as stage:
        stage.start_server()
        path = stage.put("mapped", 5 * MIB)
        file = os.open(path, os.O_RDWR)
        with mmap.mmap(file, 0) as pages:
            os.close(file)
            for page in range(0, 5 * MIB, mmap.PAGESIZE):
                pages[page : page + 8] = b"version1"
            versions = [bytes(pages)]
            stage.daemon.arm("upload.chunk.stored:2=stop")
            stage.daemon.start()
            stage.daemon.wait_stopped(60)
            for page in range(0, 5 * MIB, mmap.PAGESIZE):
                pages[page : page + 8] = b"version2"
            versions.append(bytes(pages))
        before = path.stat().st_mtime_ns
        stage.daemon.go_on()
        arrived = stage.server.files() / "outbox" / "mapped"
        wait_until("it arrives", arrived.exists, 60, stage.daemon.text)
        assert path.stat().st_mtime_ns == before
        assert arrived.read_bytes() in versions


def _is_seen(folder: Path) -> bool:
    """Whether pages that were written back tell of the next write: tmpfs never writes back."""
    path = folder / "tried"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
        pages[0] = 1
        pages.flush()
        before = path.stat().st_mtime_ns
        time.sleep(0.05)
        pages[0] = 2
        return path.stat().st_mtime_ns != before


def test_a_file_that_nobody_may_delete(box: Callable[..., Box]) -> None:
    """Immutable, to be deleted after the upload: it arrives, stays, and its job says why; freed, it is deleted."""
    both = box(after_upload="delete", rescan="1s")
    fixed, other = both.path / "fixed", both.path / "other"
    fixed.write_bytes(b"fixed")
    if subprocess.run(["chattr", "+i", str(fixed)], check=False, capture_output=True).returncode:
        pytest.skip("this file system, or this user, has no immutable files")
    try:
        with both.served():
            both.has("fixed", b"fixed")
            wait_until(
                "it is told",
                lambda: [job["state"] for job in both.daemon.jobs()] == ["failed"],
                10,
                both.daemon.text,
            )
            (job,) = both.daemon.jobs()
            assert job["reason"] == "after-upload" and fixed.read_bytes() == b"fixed"
            other.write_bytes(b"other")
            wait_until("the next one goes", lambda: not other.exists(), 30, both.daemon.text)
            subprocess.run(["chattr", "-i", str(fixed)], check=True)
            wait_until("it is deleted", lambda: not fixed.exists(), 30, both.daemon.text)
    finally:
        subprocess.run(["chattr", "-i", str(fixed)], check=False, capture_output=True)


def fixed(path: Path, held: contextlib.ExitStack) -> None:
    """Nobody may rename, delete or write it, or make anything in it, until that is taken back."""
    if subprocess.run(["chattr", "+i", str(path)], check=False, capture_output=True).returncode:
        pytest.skip("this file system, or this user, has no immutable files")
    held.callback(freed, path)


def freed(path: Path) -> None:
    """It is as any other."""
    subprocess.run(["chattr", "-i", str(path)], check=False, capture_output=True)


WHICH = ["move-film", "move-day", "move-sent", "move-disk", "move-full", "move-readonly", "delete-film", "delete-day"]
SAMPLE = {"move-film", "move-sent"}
REASONS = {"full": "No space left on device", "readonly": "Read-only file system"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in SAMPLE else (pytest.mark.long,)) for case in WHICH]
)
def test_what_cannot_be_done_after_an_upload(tmp_path: Path, box: Callable[..., Box], case: str) -> None:
    """The file, its folder, or the folder it is to go to is immutable, or the disk of that is full or read-only: the
    file arrives once and stays, its job says why, and nothing is tried again until a retry, or until the file changes.
    """
    policy, _, which = case.partition("-")
    sent = tmp_path / "sent"
    after: Any = {"move": str(sent)} if policy == "move" else policy
    both = box(rescan="1s", settle="200ms", after_upload=after)
    film = both.path / "day" / "film"
    film.parent.mkdir()
    film.write_bytes(os.urandom(3 * MIB))
    content, inode = film.read_bytes(), film.stat().st_ino
    with contextlib.ExitStack() as held:
        sent.mkdir()
        if which in ("disk", "full", "readonly"):
            hardware = held.enter_context(disks(tmp_path))
            hardware.plug(hardware.disk(size="2m" if which == "full" else "64m"), sent)
        if which == "readonly":
            subprocess.run(["mount", "-o", "remount,bind,ro", str(sent)], check=True)
        elif which != "full":
            fixed({"film": film, "day": film.parent}.get(which, sent), held)
        with both.served():
            both.has("day/film", content)
            wait_until("it is told", lambda: film_jobs(both) == ["failed"], 20, both.daemon.text)
            (told,) = (job for job in both.daemon.jobs() if job["path"] == "day/film")
            for name in ("next", "last"):
                (both.path / name).write_bytes(b"small")
                both.has(name, b"small")  # settled after the film was last touched
                both.daemon.ctl("rescan", "--wait")
            (job,) = (job for job in both.daemon.jobs() if job["path"] == "day/film")
            assert job == told, "nothing was tried again"
            reason = REASONS.get(which, "Operation not permitted")
            assert job["reason"] == "after-upload" and f"{policy}d: {reason}" in job["error"]
            assert "chunkyctl retry" in job["error"]
            assert [job["path"] for job in both.daemon.ctl("history")["jobs"] if job["path"] == "day/film"] == []
            assert both.server.text().count(f"/{len(content)} body=") == 1
            assert (film.read_bytes(), film.stat().st_ino) == (content, inode)
            assert not [path for folder in (both.path, sent) for path in folder.rglob(".chunkyd-*")]
            assert not (sent / "day" / "film").exists()
            held.close()
            if which != "film":  # that, freed, is another version of itself, and found by itself
                sent.mkdir(exist_ok=True)
                ControlClient(str(both.daemon.socket)).retry()
            wait_until("it is done", lambda: not film.exists() and not both.daemon.jobs(), 30, both.daemon.text)
            assert policy == "delete" or (sent / "day" / "film").read_bytes() == content
            assert both.server.text().count(f"/{len(content)} body=") == 1


def film_jobs(both: Box) -> list[str]:
    """The states of those of its jobs that are unfinished or failed."""
    return [job["state"] for job in both.daemon.jobs() if job["path"] == "day/film"]


HOLDER = """
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
with open(sys.argv[1], "r+b") as file:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_somebody_holds_a_lease(box: Callable[..., Box]) -> None:
    """A program that keeps a file to itself, as a file server does, is waited for; others go meanwhile."""
    both = box()
    held = both.path / "held"
    held.write_bytes(b"held")
    command = [sys.executable, "-c", HOLDER, str(held)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        with both.served():
            (both.path / "other").write_bytes(b"other")
            both.has("other", b"other")
            assert not (both.server.files() / "outbox" / "held").exists()
            holder.stdin.close()
            both.has("held", b"held")


def test_holes_links_and_names(box: Callable[..., Box]) -> None:
    """A file with holes, two names of one file, a name that changes in case only: each arrives; a FIFO is left."""
    both = box()
    with both.served():
        with (both.path / "holes").open("wb") as file:
            file.write(b"begin")
            file.seek(40 * MIB)
            file.write(b"end")
        (both.path / "one").write_bytes(b"twice")
        (both.path / "two").hardlink_to(both.path / "one")
        os.mkfifo(both.path / "fifo")
        both.has("one", b"twice")
        both.has("two", b"twice")
        (both.path / "one").rename(both.path / "ONE")
        both.has("ONE", b"twice")
        both.has("one", b"twice")
        published = both.server.files() / "outbox" / "holes"
        wait_until("the holes arrive", published.exists, 30, both.daemon.text)
        assert sha256(published) == sha256(both.path / "holes")
        both.daemon.wait_idle()
        assert not (both.server.files() / "outbox" / "fifo").exists()


WRITER = """
import os, sys, time
with open(sys.argv[1], "wb", buffering=0) as file:
    while not os.path.exists(sys.argv[2]):
        file.write(os.urandom(1000))
        time.sleep(0.5)
    print("rests", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("poll", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_slow_writer_beside_what_is_no_file(box: Callable[..., Box], poll: bool) -> None:
    """A file that is written bit by bit and never closed is not sent while it is, then it is; FIFOs, sockets and
    devices are not even opened; other files go meanwhile, and `status` tells of all.
    """
    both = box(settle="200ms", poll=poll)
    arrived = both.server.files() / "outbox"
    enough = both.path.parent / "enough"
    with both.served(), contextlib.ExitStack() as held:
        both.daemon.ctl("rescan", "--wait")  # what comes from now on is told by events
        no_files(both.path, held)
        command = [sys.executable, "-c", WRITER, str(both.path / "log"), str(enough)]
        writer = held.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert writer.stdin is not None and writer.stdout is not None
        held.callback(writer.kill)

        def told() -> bool:
            (folder,) = both.daemon.ctl("status")["folders"]
            return (folder["changingPaths"], folder["skipped"]) == (["log"], 5)

        both.daemon.ctl("rescan", "--wait")
        (both.path / "beside").write_bytes(b"beside")
        both.has("beside", b"beside")
        wait_until("both are told", told, 20, lambda: str(both.daemon.ctl("status")))
        shown = run("chunkyctl", "--config", str(both.daemon.config), "status")
        assert "outbox: 1 still changing: log\n" in shown and "outbox: 5 skipped: " in shown
        assert not (arrived / "log").exists()
        enough.touch()
        assert writer.stdout.readline() == b"rests\n"
        assert not (arrived / "log").exists()
        both.has("log", (both.path / "log").read_bytes())
        assert writer.poll() is None
        both.daemon.wait_idle()
        assert sorted(os.listdir(arrived)) == ["beside", "log"]
        assert {job["path"] for job in both.daemon.ctl("history")["jobs"]} == {"beside", "log"}
        assert "Traceback" not in both.daemon.text()
        both.daemon.ctl("rescan", "--wait")
        assert both.daemon.text().count("symlinks, FIFOs, sockets and devices are not sent, for example ") == 1


def no_files(folder: Path, held: contextlib.ExitStack) -> None:
    """Five that are never to be sent; each would hold up whoever opens or reads it."""
    os.mkfifo(folder / "fifo")
    os.mkfifo(folder.parent / "fifo in use")
    (folder.parent / "fifo in use").rename(folder / "fifo in use")  # which is told by another event
    held.callback(os.close, os.open(folder / "fifo in use", os.O_RDWR))
    listener = held.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(folder / "socket"))
    listener.listen()
    (folder / "link").symlink_to("/dev/zero")
    try:
        os.mknod(folder / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    except PermissionError:
        (folder / "zero").symlink_to("/dev/zero")


def peak(pid: int) -> int:
    """Bytes of memory it has had at most."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


@pytest.mark.long
def test_many_folders_at_once(box: Callable[..., Box]) -> None:
    """Twenty thousand folders with a file each, as fast as they can be made: every file arrives, in flat memory."""
    both = box()
    with both.served():
        empty, began = peak(both.daemon.pid), time.monotonic()
        for number in range(20_000):
            folder = both.path / str(number % 200) / str(number)
            folder.mkdir(parents=True)
            (folder / "file").write_bytes(b"%d" % number)
        made = time.monotonic() - began
        arrived = both.server.files() / "outbox"

        def all_there() -> bool:
            return sum(1 for _ in arrived.glob("*/*/file")) == 20_000

        wait_until("all arrive", all_there, 300, both.daemon.text)
        took, most = time.monotonic() - began, peak(both.daemon.pid)
        print(
            f"made in {made:.1f} s, arrived after {took:.1f} s; {empty / MIB:.0f} MiB before, {most / MIB:.0f} at most"
        )
        assert most < 150 * MIB
        assert all((arrived / str(n % 200) / str(n) / "file").read_bytes() == b"%d" % n for n in range(20_000))
