"""What things cost, counted in what does not depend on the machine: requests, bytes, syncs, system calls.

So that speed cannot rot unseen. Limits are a little above what is true today; whoever has to raise one says why. The
statements per job are counted in tests/jobs/test_together.py, the rows of a question in tests/jobs/test_million.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.filled import know_tree, open_state
from chunkyd.server.arriving import TOGETHER
from tests.e2e.programs import BIN, Daemon, Program, Server, running, tree, wait_until

MIB = 1 << 20
BIG = 64 * MIB
MANY = 1000
SMALL = 4096


def upload(server: Server, folder: Path, *arguments: object) -> None:
    """`chunky upload`, with a memory of its own."""
    command = [BIN / "chunky", "upload", *arguments, "--to", server.url, "--state", folder / "memory.sqlite3"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=120)


def requests(server: Server) -> Counter[str]:
    """How often each operation was asked for."""
    return Counter(re.findall(r"server\.access: [A-Z]+ /(\w+) ", server.text()))


def bytes_stored(server: Server) -> int:
    """The bytes of all chunks that were taken."""
    ranges = re.findall(r"PATCH /uploadChunk 200 .*? range=(\d+)-(\d+)/", server.text())
    return sum(int(last) + 1 - int(first) for first, last in ranges)


def many(folder: Path) -> Path:
    """A thousand small files."""
    for number in range(MANY):
        path = folder / f"d{number % 10}" / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SMALL))
    return folder


SYNCS = ("fsync", "fdatasync")
ABOUT_FILES = (
    *SYNCS,
    "syncfs",
    *("openat", "close", "fstat", "newfstatat", "pread64", "pwrite64", "pwritev", "pwritev2", "sync_file_range"),
    *("fchmod", "utimensat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "linkat", "fcntl"),
)


@contextlib.contextmanager
def counted(program: Program, log: Path, calls: Sequence[str] = SYNCS) -> Iterator[Counter[str]]:
    """How often the program made these system calls meanwhile, by name; filled in at the end."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    traced = ",".join(f"?{call}" for call in calls)  # not every machine has each of them
    command = ["strace", "-f", "-qq", "-e", f"trace={traced}", "-p", str(program.pid), "-o", str(log)]
    found: Counter[str] = Counter()
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        tasks = Path(f"/proc/{program.pid}/task")
        wait_until(
            "every thread is watched",
            lambda: (
                tracer.poll() is not None
                or all("TracerPid:\t0\n" not in (each / "status").read_text() for each in tasks.iterdir())
            ),
        )
        if tracer.poll() is not None:
            pytest.skip("strace may not watch processes here")
        yield found
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(20)
    found.update(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))


def test_a_big_file(tmp_path: Path) -> None:
    """64 MiB: each byte once, in a handful of requests; the same again: none of its bytes."""
    server = Server(tmp_path)
    file = tmp_path / "big"
    file.write_bytes(os.urandom(BIG))
    with running(server):
        with counted(server, tmp_path / "calls", ("recvfrom",)) as calls:
            upload(server, tmp_path, file)
        asked = requests(server)
        assert bytes_stored(server) == BIG
        assert calls["recvfrom"] <= BIG // (96 << 10)  # each is handed from one thread to another
        assert asked["initiateUploadSession"] == asked["endUpload"] == 1
        assert asked["uploadChunk"] <= 12  # chunks begin small and grow
        assert asked.total() <= 16
        upload(server, tmp_path, file)
        assert bytes_stored(server) == BIG
        assert requests(server).total() - asked.total() <= 4


def faults(pid: int) -> int:
    """The pages of memory that were faulted in so far."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def test_the_memory_of_a_big_file(tmp_path: Path) -> None:
    """What the first one has faulted in serves the second: some for the buffers, not one page for each that comes."""
    server = Server(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(os.urandom(BIG))
    second.write_bytes(os.urandom(4 * BIG))
    with running(server):
        upload(server, tmp_path, first)
        before = faults(server.pid)
        upload(server, tmp_path, second)
        assert bytes_stored(server) == 5 * BIG
        assert faults(server.pid) - before <= 4 * BIG // os.sysconf("SC_PAGESIZE") // 12


def test_many_small_files(tmp_path: Path) -> None:
    """A thousand: few requests, few syncs, few calls to the kernel; again: headers alone."""
    server = Server(tmp_path)
    folder = many(tmp_path / "many")
    with running(server):
        with counted(server, tmp_path / "calls", ABOUT_FILES) as calls:
            upload(server, tmp_path, "-r", folder)
        asked = requests(server)
        assert asked.total() <= 14  # the first of them small, so that the server begins early
        syncs = calls["fsync"] + calls["fdatasync"]
        # For each file a share in one of its group, or one of its own where other programs keep the disk busy.
        assert syncs + TOGETHER * calls["syncfs"] >= MANY
        assert syncs + calls["syncfs"] <= 1.2 * MANY + 100
        assert calls["openat"] <= 2.1 * MANY + 100  # to write it, and to see it get its name
        assert calls.total() <= 16 * MANY  # 13 are each file's own
        upload(server, tmp_path, "-r", folder)
        assert requests(server).total() - asked.total() <= 10
        assert requests(server)["initiateUploadSession"] == 0


def test_many_small_files_of_the_daemon(tmp_path: Path) -> None:
    """The daemon gathers them by itself."""
    server = Server(tmp_path)
    box = tmp_path / "outbox"
    many(box)
    daemon = Daemon(tmp_path, server.url, [{"path": str(box)}])
    with running(server, daemon):
        wait_until("all arrive", lambda: len(tree(server.files() / "outbox")) == MANY, 60, daemon.text)
        daemon.wait_idle()
        assert requests(server).total() <= 24  # the first go while the scan still finds the others


def test_the_syncs_of_a_chunk(tmp_path: Path) -> None:
    """At most one sync for the bytes of a chunk, and one or two for its record; a few for the session and the file."""
    server = Server(tmp_path)
    file = tmp_path / "big"
    file.write_bytes(os.urandom(BIG))
    with running(server):
        with counted(server, tmp_path / "syncs") as syncs:
            upload(server, tmp_path, file, "--chunk-size", "4MiB")
        chunks = requests(server)["uploadChunk"]
        assert chunks >= BIG // (4 * MIB)
        assert chunks <= syncs.total() <= 3 * chunks + 16


def test_a_rescan_of_what_has_not_changed(tmp_path: Path) -> None:
    """A known file costs one system call, its folder seventeen: opened step by step, watched, read."""
    folders, files = 100, 1000
    box = tmp_path / "outbox"
    for number in range(files):
        path = box / f"d{number % folders}" / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    daemon = Daemon(tmp_path, "http://127.0.0.1:9", [{"path": str(box)}])
    tables = open_state(daemon.state)
    know_tree(tables, "outbox", box)
    tables.close()
    with running(daemon):
        daemon.ctl("rescan", "--wait")  # the one that every start begins has ended
        with counted(daemon, tmp_path / "calls", ("%file", "%desc")) as calls:
            daemon.ctl("rescan", "--wait")
        (found,) = daemon.ctl("status")["folders"]
        assert found["files"] == files
        assert daemon.jobs() == []
    assert calls["inotify_add_watch"] == folders + 1
    assert files + folders <= calls.total() <= files + 17 * (folders + 1) + 50


def wakes(pid: int) -> Counter[str]:
    """How often each thread has gone to sleep so far: once for each time it was awake."""
    return Counter(
        {
            task.name: int(re.findall(r"^voluntary_ctxt_switches:\t(\d+)", (task / "status").read_text(), re.M)[0])
            for task in Path(f"/proc/{pid}/task").iterdir()
        }
    )


def test_a_daemon_that_has_nothing_to_do(tmp_path: Path) -> None:
    """Its root is looked at every two seconds, and once in a while the dispatcher looks up; all others sleep on."""
    box = tmp_path / "outbox"
    box.mkdir()
    daemon = Daemon(tmp_path, "http://127.0.0.1:9", [{"path": str(box), "settle": "10ms"}])
    with running(daemon):
        wait_until("all is scanned", lambda: daemon.ctl("status")["folders"][0]["state"] == "ok", 20, daemon.text)
        start, before = time.monotonic(), wakes(daemon.pid)
        wait_until("the root is looked at", lambda: max((wakes(daemon.pid) - before).values(), default=0) >= 10, 90)
        # Twenty seconds; on a busy machine it lies down twice for some looks. What ticks each second is there first.
        assert time.monotonic() - start > 11
        assert sum(count >= 10 for count in (wakes(daemon.pid) - before).values()) == 1
