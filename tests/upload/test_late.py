"""Uploads whose hash comes last, against a real server: when, and what becomes of them under every trouble."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunkyd.clock import ManualClock, SinceSet
from chunkyd.errors import Interrupted, NotChunky, Problem, SourceChanged
from chunkyd.files import fingerprint
from chunkyd.protocol.late_hash import PATH_DECLARE, is_file_version
from chunkyd.protocol.problems import problem, to_document
from chunkyd.protocol.ranges import RangeSet
from chunkyd.upload import SqliteMemory, Uploader, UploadKey, source
from chunkyd.upload.late import LATE_BYTES, Frontier, version_name
from tests.e2e.programs import Server, sha256, wait_until
from tests.upload import test_uploader
from tests.upload.faultproxy import Answer, Break, Cut, Fault, FaultProxy, Rewrite, Seen, Stall, Swallow
from tests.upload.test_uploader import JSON

MIB = 1024 * 1024
SIZE = LATE_BYTES + MIB + 123
INITIATE = "/initiateUploadSession"
CHUNK = "/uploadChunk"


@pytest.fixture(autouse=True)
def leases(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process takes leases, as our programs do."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    taken = threading.Event()
    taken.set()
    monkeypatch.setattr(source, "_leases", taken)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(SIZE))
    opened = source.Source(path)
    leased = opened._leased
    opened.close()
    if not leased:
        pytest.skip("no leases on this file system")
    return path


@pytest.fixture
def arrived(server: Server, tmp_path: Path) -> Path:
    return server.files() / tmp_path.name / "file"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SqliteMemory]:
    """The one the uploaders share."""
    memory = SqliteMemory(str(tmp_path / "uploads.sqlite3"))
    yield memory
    memory.close()


def began_with(proxy: FaultProxy) -> list[bool]:
    """Of each initiate, whether its hash was to come last."""
    return [is_file_version(seen.file_hash) for seen in proxy.requests if seen.path == INITIATE]


def key_of(proxy: FaultProxy, file: Path, tmp_path: Path) -> UploadKey:
    return UploadKey(proxy.url, os.fsencode(file), os.fsencode(f"{tmp_path.name}/file"))


def made(proxy: FaultProxy, path: str) -> int:
    """How many requests came for this path; what the server takes is asked for under that of chunks."""
    return sum(seen.path == path and seen.method != "OPTIONS" for seen in proxy.requests)


def once(path: str, fault: Fault, number: int = 1) -> Callable[[Seen], Fault | None]:
    """A plan: this fault for the nth request of this path."""
    plan = test_uploader.once(path, fault, number)
    return lambda seen: None if seen.method == "OPTIONS" else plan(seen)


def refusal(name: str) -> Answer:
    found = problem(name, "as planned")
    return Answer(found.status, to_document(found), JSON, linger=0.5)


def without_extension(answer: bytes) -> bytes:
    """The answer of a server that does not know it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    document = json.loads(body)
    document["extensions"] = ["batch"]
    body = json.dumps(document).encode()
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body)]) + b"\r\n\r\n" + body


def stopped_at(proxy: FaultProxy, uploader: Uploader, path: str, number: int) -> None:
    """Run an upload until the nth request for this path, and stop it there."""
    proxy.plan = once(path, Stall(1000), number)
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            uploader.upload()
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until("the request is made", lambda: made(proxy, path) >= number)
    uploader.stop()
    thread.join(5)
    assert [type(error) for error in outcome] == [Interrupted]
    proxy.plan = lambda seen: None
    proxy.requests.clear()


def test_a_big_file_is_read_once_and_arrives(proxy: FaultProxy, uploader, file: Path, arrived: Path) -> None:
    """No hash in the initiate, one declaration; what arrives is the file, and the hash is remembered."""
    os.utime(file, ns=(1, 1_600_000_000_123_456_789))
    phases: set[str] = set()
    result = uploader(proxy.url, file, progress=lambda progress: phases.add(progress.phase)).upload()
    assert sha256(arrived) == sha256(file) == result.file_hash
    assert arrived.stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert (result.bytes_sent, result.resumed_from, result.instant) == (SIZE, 0, False)
    assert result.fingerprint == fingerprint(file.stat())
    assert "hashing" not in phases
    assert began_with(proxy) == [True]
    assert (proxy.count(PATH_DECLARE), proxy.count("/endUpload")) == (1, 1)
    keys = {seen.file_hash for seen in proxy.requests if seen.method != "OPTIONS"}
    assert len(keys) == 1 and is_file_version(keys.pop())
    again = uploader(proxy.url, file).upload()
    assert (again.instant, again.bytes_sent, again.file_hash) == (True, 0, result.file_hash)
    assert began_with(proxy) == [True, False]


def test_an_old_file_needs_no_lease(proxy: FaultProxy, uploader, file: Path, arrived, monkeypatch) -> None:
    """Without leases a file of a moment ago is hashed first, one of more than a minute ago is not."""
    monkeypatch.setattr(source, "_leases", threading.Event())
    uploader(proxy.url, file, name="fresh").upload()
    assert began_with(proxy) == [False]
    monkeypatch.setattr(source, "_STEADY_SECONDS", -1.0)  # as if the minute were over
    file.write_bytes(os.urandom(SIZE + 1))
    assert uploader(proxy.url, file).upload().file_hash == sha256(arrived)
    assert began_with(proxy) == [False, True]


def test_no_age_is_believed_in_memory(proxy: FaultProxy, uploader, monkeypatch) -> None:
    """On tmpfs a write through a mapping moves no time: a file that a writer has open is hashed first, however old."""
    if b" /dev/shm tmpfs " not in Path("/proc/mounts").read_bytes():
        pytest.skip("/dev/shm is no tmpfs")
    monkeypatch.setattr(source, "_STEADY_SECONDS", -1.0)  # as if the minute were over
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as mapped:
        mapped.write(os.urandom(SIZE))
        mapped.flush()
        uploader(proxy.url, Path(mapped.name)).upload()
    assert began_with(proxy) == [False]


def test_old_by_a_clock_that_was_set(proxy: FaultProxy, uploader, file: Path, arrived: Path, monkeypatch) -> None:
    """A file of a moment ago looks old to a clock that was set forward: for a minute no age is believed."""
    monkeypatch.setattr(source, "_leases", threading.Event())
    clock = ManualClock(wall=file.stat().st_mtime)
    since_set = SinceSet(clock)
    clock.step_wall(86400)
    uploader(proxy.url, file, clock=clock, since_set=since_set).upload()
    clock.advance(61)
    file.write_bytes(os.urandom(SIZE + 1))
    uploader(proxy.url, file, clock=clock, since_set=since_set).upload()
    assert began_with(proxy) == [False, True]
    assert sha256(arrived) == sha256(file)


def test_files_that_are_hashed_first(proxy: FaultProxy, uploader, file: Path, tmp_path: Path) -> None:
    """Small ones; a copy, or the same file with another time: the server has them, and no byte travels."""
    small = tmp_path / "small"
    small.write_bytes(os.urandom(LATE_BYTES))
    uploader(proxy.url, small, name="small").upload()
    assert began_with(proxy) == [False]
    uploader(proxy.url, file).upload()
    copy = tmp_path / "copy"
    copy.write_bytes(file.read_bytes())
    os.utime(file, ns=(1, 1))
    assert uploader(proxy.url, copy, name=f"{tmp_path.name}/copy").upload().bytes_sent == 0
    assert uploader(proxy.url, file).upload().bytes_sent == 0
    assert began_with(proxy) == [False, True, False, False]


@pytest.mark.parametrize("fault", [Swallow(), Cut(0), Answer(503), Break("answer"), refusal("internal")], ids=repr)
@pytest.mark.parametrize("path", [INITIATE, PATH_DECLARE, CHUNK, "/endUpload"])
def test_troubles_on_the_way(proxy: FaultProxy, uploader, file: Path, arrived: Path, path: str, fault: Fault) -> None:
    """A request or an answer that is lost costs time, and little more."""
    proxy.plan = once(path, fault)
    result = uploader(proxy.url, file, chunk_size=2 * MIB).upload()
    assert sha256(arrived) == sha256(file) == result.file_hash
    assert set(began_with(proxy)) == {True}


def test_a_server_without_the_extension(proxy: FaultProxy, uploader, file: Path, arrived: Path) -> None:
    """It gets the hash first, as ever; one that does not say what it takes, too."""
    proxy.plan = lambda seen: Rewrite(without_extension) if seen.method == "OPTIONS" else None
    assert uploader(proxy.url, file).upload().file_hash == sha256(arrived)
    proxy.plan = lambda seen: Answer(404) if seen.method == "OPTIONS" else None
    file.write_bytes(os.urandom(SIZE + 1))
    assert uploader(proxy.url, file).upload().file_hash == sha256(arrived)
    assert began_with(proxy) == [False, False]


def test_a_server_that_was_set_back(proxy: FaultProxy, uploader, file: Path, arrived: Path) -> None:
    """It has named the extension and takes no such initiate any more: the same upload goes on with a hash."""
    proxy.plan = once(INITIATE, refusal("malformed-request"))
    result = uploader(proxy.url, file).upload()
    assert result.file_hash == sha256(arrived) == sha256(file)
    assert began_with(proxy) == [True, False]


def test_a_server_that_is_set_back_in_the_middle(proxy: FaultProxy, uploader, file: Path, arrived, memory) -> None:
    """It knows no declaration: the upload ends, and the next one, told the truth, gives its session up and hashes."""
    proxy.plan = once(PATH_DECLARE, Answer(404))
    with pytest.raises(NotChunky):
        uploader(proxy.url, file).upload()
    assert not arrived.exists()
    proxy.plan = lambda seen: Rewrite(without_extension) if seen.method == "OPTIONS" else None
    assert uploader(proxy.url, file).upload().file_hash == sha256(arrived)
    assert began_with(proxy) == [True, False]
    assert memory.endings(proxy.url) == []


def test_a_stopped_upload_goes_on(proxy: FaultProxy, uploader, file: Path, arrived: Path) -> None:
    """The next run sends what is missing and hashes the whole beside it; its session is the same."""
    stopped_at(proxy, uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=1), CHUNK, 4)
    result = uploader(proxy.url, file, chunk_size=MIB).upload()
    assert result.file_hash == sha256(arrived) == sha256(file)
    assert (result.resumed_from, result.bytes_sent) == (3 * MIB, SIZE - 3 * MIB)
    assert began_with(proxy) == []
    assert proxy.count(PATH_DECLARE) == 1


def test_a_hash_that_was_taken_is_not_taken_again(
    proxy: FaultProxy, uploader, file: Path, arrived: Path, monkeypatch
) -> None:
    """Stopped at the declaration: the hash is remembered, and the next run has nothing left to read."""
    stopped_at(proxy, uploader(proxy.url, file), PATH_DECLARE, 1)
    monkeypatch.setattr(source.Source, "sha256", None)
    result = uploader(proxy.url, file).upload()
    assert (result.file_hash, result.bytes_sent) == (sha256(arrived), 0)
    assert began_with(proxy) == []


def test_what_no_longer_holds_still_is_hashed_before_its_session_goes_on(
    proxy: FaultProxy, uploader, file: Path, arrived: Path, monkeypatch
) -> None:
    """Begun under a lease that is not to be had any more: one reading first, then the rest, in the same session."""
    stopped_at(proxy, uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=1), CHUNK, 4)
    monkeypatch.setattr(source, "_leases", threading.Event())
    phases: list[str] = []
    result = uploader(proxy.url, file, progress=lambda progress: phases.append(progress.phase)).upload()
    assert (result.file_hash, result.resumed_from) == (sha256(arrived), 3 * MIB)
    assert phases[0] == "hashing"
    assert began_with(proxy) == []


def test_a_version_that_changed_while_nobody_looked(proxy: FaultProxy, uploader, file: Path, arrived, memory) -> None:
    """Stopped, edited, begun again: the old session ends, and what arrives is the new version alone."""
    stopped_at(proxy, uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=1), CHUNK, 4)
    file.write_bytes(os.urandom(SIZE))
    assert uploader(proxy.url, file).upload().file_hash == sha256(arrived) == sha256(file)
    assert proxy.requests[0].path == "/endUpload" or proxy.requests[1].path == "/endUpload"
    assert memory.endings(proxy.url) == []


@pytest.mark.parametrize(("path", "number"), [(CHUNK, 3), (PATH_DECLARE, 1), ("/uploadStatus", 1)])
def test_a_session_that_is_lost(proxy: FaultProxy, uploader, file: Path, arrived: Path, path: str, number: int) -> None:
    """The server knows it no longer: the hash is taken to its end, and the session that replaces it has it."""
    faults = [once(path, refusal("invalid-session-id"), number), once(CHUNK, Cut(5), 2)]
    proxy.plan = lambda seen: faults[0](seen) or (faults[1](seen) if path == "/uploadStatus" else None)
    result = uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=2).upload()
    assert result.file_hash == sha256(arrived) == sha256(file)
    assert began_with(proxy) == [True, False]
    assert (
        len(
            {
                seen.headers["chunky-session"]
                for seen in proxy.requests
                if seen.path == CHUNK and seen.method != "OPTIONS"
            }
        )
        == 2
    )


def append(file: Path) -> None:
    with file.open("ab") as writing:  # waits until the reader has given its lease up
        writing.write(b"more")


def only_open(file: Path) -> None:
    file.open("r+b").close()


def replace_in_place(file: Path) -> None:
    with file.open("r+b") as writing:
        writing.seek(SIZE // 2)
        writing.write(b"other bytes")


def touch(file: Path) -> None:
    os.utime(file, ns=(5, 5))


@pytest.mark.parametrize("edit", [append, only_open, replace_in_place, touch], ids=lambda edit: edit.__name__)
@pytest.mark.parametrize(("path", "number"), [(CHUNK, 5), (PATH_DECLARE, 1)])
def test_a_file_that_does_not_hold_still(
    proxy: FaultProxy, uploader, file: Path, arrived: Path, memory, edit: Callable[[Path], None], path: str, number: int
) -> None:
    """Edited, or only opened for writing: the session is ended, nothing of it stays, and the next time it is hashed."""
    edits: list[threading.Thread] = []
    count = 0
    guard = threading.Lock()

    def plan(seen: Seen) -> Fault | None:
        nonlocal count
        if seen.path != path or seen.method == "OPTIONS":
            return None
        with guard:
            count += 1
            if count != number:
                return None
        edits.append(threading.Thread(target=edit, args=(file,)))
        edits[0].start()
        if edit is touch or path == PATH_DECLARE:  # no lease tells of that
            edits[0].join(15)
        return Swallow() if path == PATH_DECLARE and edit is not only_open else None

    proxy.plan = plan
    with pytest.raises(SourceChanged):
        uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=2).upload()
    edits[0].join(15)
    assert proxy.requests[-1].path == "/endUpload"
    assert memory.endings(proxy.url) == []
    there = arrived.exists()
    assert not there or path == PATH_DECLARE  # what was declared was whole
    proxy.requests.clear()
    proxy.plan = lambda seen: None
    result = uploader(proxy.url, file).upload()
    assert result.file_hash == sha256(arrived) == sha256(file)
    assert began_with(proxy) == [False]


@pytest.mark.parametrize("name", ["digest-mismatch", "invalid-file-hash"])
def test_a_hash_that_is_refused(proxy: FaultProxy, uploader, file: Path, arrived: Path, memory, name: str) -> None:
    """The server has other bytes, or another hash: the upload ends, and the next one hashes first."""
    proxy.plan = once(PATH_DECLARE, refusal(name))
    with pytest.raises(Problem) as caught:
        uploader(proxy.url, file).upload()
    assert caught.value.name == name
    assert memory.known_hash(key_of(proxy, file, file.parent), fingerprint(file.stat())) is None
    assert uploader(proxy.url, file).upload().file_hash == sha256(arrived)
    assert began_with(proxy) == [True, False]
    assert memory.endings(proxy.url) == []


def test_two_at_once_share_the_work(proxy: FaultProxy, uploader, file: Path, arrived: Path) -> None:
    """Two uploads of one memory have one session, and both are told the hash of what arrived."""
    results: list[object] = []

    def run() -> None:
        results.append(uploader(proxy.url, file, chunk_size=MIB // 2).upload().file_hash)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [sha256(file)] * 2
    assert sha256(arrived) == sha256(file)


def test_the_name_of_a_version_tells_all_apart() -> None:
    """Another server, source, path or fingerprint is another name, and the device is none of them."""
    key, found = UploadKey("u", b"s", b"p"), fingerprint(os.stat("/"))
    names = {version_name(key, found)}
    for other in (UploadKey("v", b"s", b"p"), UploadKey("u", b"t", b"p"), UploadKey("u", b"s", b"q")):
        names.add(version_name(other, found))
    for field in ("inode", "size", "mtime_ns", "ctime_ns"):
        values = {name: getattr(found, name) for name in found.__struct_fields__}
        names.add(version_name(key, type(found)(**{**values, field: values[field] + 1})))
    assert len(names) == 8
    moved = {name: getattr(found, name) for name in found.__struct_fields__}
    assert version_name(key, type(found)(**{**moved, "device": 0})) in names


def test_the_frontier_is_where_no_gap_is() -> None:
    """The hash goes on where all before has begun to be sent, and ends when it is told to."""
    frontier = Frontier(100)
    frontier.begin([(0, 10), (20, 30)])
    frontier.follow(9, lambda: None)
    passed = threading.Event()

    def follow() -> None:
        frontier.follow(25, lambda: None)
        passed.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert not passed.wait(0.05)
    frontier.begin_all_but(RangeSet([(30, 100)]))
    assert passed.wait(5)
    thread.join()
    frontier.stop()
    with pytest.raises(Interrupted):
        frontier.follow(0, lambda: None)
