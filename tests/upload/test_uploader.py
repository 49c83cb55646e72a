"""Whole uploads against a real server, with everything that can happen on the way."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from chunkyd.errors import (
    Interrupted,
    NetworkError,
    NotChunky,
    Problem,
    SourceChanged,
    SourceGone,
    Unreachable,
    UsageError,
)
from chunkyd.files import Fingerprint, fingerprint
from chunkyd.protocol.problems import problem, to_document
from chunkyd.upload import Progress, SqliteMemory, UploadKey
from tests.e2e.programs import Server, free_port, running, sha256, wait_until
from tests.upload.faultproxy import Answer, Corrupt, Cut, Fault, FaultProxy, Rewrite, Seen, Stall, Swallow

MIB = 1024 * 1024
SIZE = 9 * MIB + 123
JSON = (("Content-Type", "application/problem+json"),)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def arrived(server: Server, tmp_path: Path) -> Path:
    return server.files() / tmp_path.name / "file"


def once(path: str, fault: Fault, number: int = 1) -> Callable[[Seen], Fault | None]:
    """A plan: this fault for the nth request of this path."""
    guard, count = threading.Lock(), 0

    def plan(seen: Seen) -> Fault | None:
        nonlocal count
        if seen.path != path:
            return None
        with guard:
            count += 1
            return fault if count == number else None

    return plan


def answer(name: str, **options: float) -> Answer:
    found = problem(name, "as planned")
    extra = tuple(("Retry-After", str(options["retry_after"])) for _ in range("retry_after" in options))
    return Answer(found.status, to_document(found), JSON + extra, linger=0.5)


@pytest.mark.parametrize("size", [0, 1, 4 * MIB, SIZE])
def test_a_file_arrives_with_its_bytes_time_and_mode(server, uploader, tmp_path, arrived, size: int) -> None:
    """What arrives is the file, and the result says so."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(size))
    path.chmod(0o754)
    os.utime(path, ns=(1, 1_600_000_000_123_456_789))
    result = uploader(server.url, path).upload()
    assert sha256(arrived) == sha256(path) == result.file_hash
    assert (arrived.stat().st_mode & 0o777, arrived.stat().st_mtime_ns) == (0o754, 1_600_000_000_123_456_789)
    assert (result.size, result.bytes_sent, result.resumed_from) == (size, size, 0)
    assert result.fingerprint == fingerprint(path.stat())


def test_a_version_the_server_has_is_not_sent_again(server, uploader, file) -> None:
    """The same file once more takes no byte, and says that it was instant."""
    uploader(server.url, file).upload()
    again = uploader(server.url, file).upload()
    assert (again.instant, again.bytes_sent) == (True, 0)


def test_names_are_bytes(server, uploader, file, tmp_path) -> None:
    """A published path that is not UTF-8, with a newline in it, arrives as these bytes."""
    name = os.fsencode(tmp_path.name) + b"/a\n\xff\xfe"
    uploader(server.url, file, name=name).upload()
    with open(os.fsencode(server.files()) + b"/" + name, "rb") as published:
        assert published.read() == file.read_bytes()


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a//b", "a/./b", "x" * 256])
def test_a_name_that_cannot_be_published(server, uploader, file, name: str) -> None:
    """A path the protocol does not allow is said before anything is sent."""
    with pytest.raises(UsageError):
        uploader(server.url, file, name=name)


@pytest.mark.parametrize(
    "fault",
    [
        Cut(0),
        Cut(MIB),
        Swallow(),
        Corrupt(1000),
        Answer(200),
        Answer(502),
        Answer(408),
        Answer(413, linger=0.5),
        answer("internal"),
        answer("shutting-down", retry_after=0),
        answer("rate-limited", retry_after=0),
        answer("chunk-in-progress", retry_after=0),
        answer("storage-full", retry_after=0),
        answer("chunk-digest-mismatch"),
        answer("chunk-out-of-bounds"),
        answer("session-expired"),
        answer("invalid-session-id"),
    ],
    ids=lambda fault: f"{type(fault).__name__}{getattr(fault, 'status', getattr(fault, 'after', ''))}",
)
@pytest.mark.parametrize("number", [1, 3])
def test_a_fault_in_a_chunk_costs_nothing_but_time(proxy: FaultProxy, uploader, file, arrived, fault, number) -> None:
    """Whatever happens to a chunk, the file arrives whole."""
    proxy.plan = once("/uploadChunk", fault, number)
    result = uploader(proxy.url, file, chunk_size=2 * MIB).upload()
    assert sha256(arrived) == sha256(file) == result.file_hash


@pytest.mark.parametrize("path", ["/initiateUploadSession", "/uploadStatus"])
@pytest.mark.parametrize("fault", [Cut(0), Swallow(), Answer(200), Answer(503)], ids=lambda f: type(f).__name__)
def test_a_fault_elsewhere_costs_nothing_but_time(proxy: FaultProxy, uploader, file, arrived, path, fault) -> None:
    """The same for opening a session and asking for its status."""
    faults = [once(path, fault), once("/uploadChunk", Cut(5))]
    proxy.plan = lambda seen: faults[0](seen) or faults[1](seen)
    uploader(proxy.url, file, chunk_size=2 * MIB).upload()
    assert sha256(arrived) == sha256(file)


def test_a_lost_answer_to_an_initiate_opens_no_second_session(proxy: FaultProxy, uploader, file) -> None:
    """The repeated initiate carries the same key, so the server gives the same session."""
    proxy.plan = once("/initiateUploadSession", Swallow())
    uploader(proxy.url, file).upload()
    keys = [seen.headers["idempotency-key"] for seen in proxy.requests if seen.path == "/initiateUploadSession"]
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_version_that_was_sent_before_is_sent_again(proxy: FaultProxy, uploader, file, arrived) -> None:
    """Its first key is used up: another opens the session, and stays the same when that answer is lost."""
    uploader(proxy.url, file).upload()
    arrived.unlink()
    proxy.requests.clear()
    swallowed: list[object] = []

    def plan(seen):  # the second initiate's answer
        initiates = [each for each in proxy.requests if each.path == "/initiateUploadSession"]
        if seen.path == "/initiateUploadSession" and len(initiates) == 2 and not swallowed:
            swallowed.append(seen)
            return Swallow()
        return None

    proxy.plan = plan
    uploader(proxy.url, file).upload()
    assert sha256(arrived) == sha256(file)
    keys = [seen.headers["idempotency-key"] for seen in proxy.requests if seen.path == "/initiateUploadSession"]
    assert swallowed and len(keys) == 4 and keys[0] == keys[2] != keys[1] == keys[3]
    arrived.unlink()
    proxy.requests.clear()
    uploader(proxy.url, file).upload()  # and a third time: neither is free
    assert sha256(arrived) == sha256(file)
    again = [seen.headers["idempotency-key"] for seen in proxy.requests if seen.path == "/initiateUploadSession"]
    assert again[:2] == keys[:2] and len(set(again)) == 3


def test_a_stopped_upload_goes_on_where_it_was(proxy: FaultProxy, uploader, file, arrived) -> None:
    """Stopped in the middle of a chunk it raises Interrupted; the next run hashes nothing and sends only the rest."""
    proxy.plan = once("/uploadChunk", Stall(1000), 4)
    first = uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=1)
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            first.upload()
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until("the fourth chunk stalls", lambda: proxy.count("/uploadChunk") == 4)
    first.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert [type(error) for error in outcome] == [Interrupted]
    phases: list[str] = []
    result = uploader(proxy.url, file, progress=lambda progress: phases.append(progress.phase)).upload()
    assert "hashing" not in phases
    assert result.resumed_from == 3 * MIB
    assert result.bytes_sent == SIZE - 3 * MIB
    assert sha256(arrived) == sha256(file)


def test_a_chunk_held_by_a_dead_client_is_gone_around(proxy: FaultProxy, uploader, file, arrived, server) -> None:
    """While another connection holds a range and sends nothing, the rest arrives, and few bytes are sent in vain."""
    proxy.plan = once("/uploadChunk", Answer(403))
    with pytest.raises(NotChunky):
        uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=1).upload()
    (head,) = [seen.headers for seen in proxy.requests if seen.path == "/uploadChunk"]
    with socket.create_connection(("127.0.0.1", server.port)) as dead:
        lines = ["PATCH /uploadChunk HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
        dead.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + b"x" * 1000)
        proxy.plan = lambda seen: None
        pictures: list[Progress] = []
        results = []
        job = uploader(proxy.url, file, progress=pictures.append)
        thread = threading.Thread(target=lambda: results.append(job.upload()))
        thread.start()
        wait_until("all but the held range is there", lambda: pictures and pictures[-1].bytes_done >= SIZE - MIB)
    thread.join(60)
    assert sha256(arrived) == sha256(file)
    assert results[0].bytes_sent < 4 * SIZE


def test_the_callers_event_stops_it_too(proxy: FaultProxy, uploader, file) -> None:
    """An event set before the start is noticed as soon as there is something to do."""
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        uploader(proxy.url, file, stop=stop).upload()


def test_a_paused_upload_sends_nothing_and_goes_on(proxy: FaultProxy, uploader, file, arrived) -> None:
    """Between pause and resume no request goes out; the session stays."""
    pictures: list[Progress] = []
    job = uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=1, progress=pictures.append)
    proxy.plan = lambda seen: job.pause() if seen.path == "/uploadChunk" and proxy.count("/uploadChunk") == 2 else None
    thread = threading.Thread(target=job.upload)
    thread.start()
    wait_until("it says that it is paused", lambda: pictures and pictures[-1].phase == "paused")
    requests = len(proxy.requests)
    assert proxy.count("/uploadChunk") == 2
    proxy.plan = lambda seen: None
    assert len(proxy.requests) == requests
    job.resume()
    thread.join(20)
    assert sha256(arrived) == sha256(file)


def test_nobody_there_uses_up_the_attempts_and_is_resumable(uploader, file) -> None:
    """Five attempts, then Unreachable with the last network error as its cause."""
    with pytest.raises(Unreachable) as caught:
        uploader(f"http://127.0.0.1:{free_port()}", file).upload()
    assert isinstance(caught.value.__cause__, NetworkError)


def test_the_server_is_killed_in_the_middle_and_comes_back(tmp_path, uploader, file) -> None:
    """A server killed under the upload and started again finishes it without the client's help."""
    own = Server(tmp_path)
    with running(own), FaultProxy(own.port) as proxy:
        killed = threading.Event()

        def plan(seen: Seen) -> Fault | None:
            if proxy.count("/uploadChunk") == 4 and not killed.is_set():
                killed.set()
                own.kill()
                own.start()
            return None

        proxy.plan = plan
        result = uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=2, attempts=20).upload()
        assert killed.is_set()
        assert sha256(own.files() / tmp_path.name / "file") == result.file_hash
        assert result.bytes_sent <= SIZE + 3 * MIB


def test_a_file_that_changes_under_way_is_never_complete(proxy: FaultProxy, uploader, file, arrived) -> None:
    """A write in the middle raises SourceChanged, nothing is published; the old session ends before the next."""

    def plan(seen: Seen) -> Fault | None:
        if seen.path == "/uploadChunk" and proxy.count("/uploadChunk") == 3:
            with file.open("r+b") as writing:
                writing.write(b"changed")
        return None

    proxy.plan = plan
    with pytest.raises(SourceChanged):
        uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=1).upload()
    assert not arrived.exists()
    proxy.plan = lambda seen: None
    before = len(proxy.requests)
    uploader(proxy.url, file).upload()
    assert [seen.path for seen in proxy.requests[before:]][:2] == ["/endUpload", "/initiateUploadSession"]
    assert sha256(arrived) == sha256(file)


def test_a_superseded_session_ends_before_its_successor_begins(proxy: FaultProxy, uploader, file, arrived) -> None:
    """Also where its end gets lost twice: it would hold the space of the file, and could still be published."""
    proxy.plan = lambda seen: Answer(403) if seen.path == "/uploadChunk" else None
    with pytest.raises(NotChunky):
        uploader(proxy.url, file).upload()
    file.write_bytes(os.urandom(SIZE))
    proxy.requests.clear()
    proxy.plan = lambda seen: Cut(0) if seen.path == "/endUpload" and proxy.count("/endUpload") < 3 else None
    uploader(proxy.url, file).upload()
    asked = [seen.path for seen in proxy.requests if seen.path in ("/endUpload", "/initiateUploadSession")]
    assert asked[:4] == ["/endUpload"] * 3 + ["/initiateUploadSession"]
    assert sha256(arrived) == sha256(file)


def test_a_file_deleted_under_way_is_gone(proxy: FaultProxy, uploader, file, arrived) -> None:
    """A file that vanishes is not sent to its end."""
    proxy.plan = lambda seen: file.unlink(missing_ok=True) if proxy.count("/uploadChunk") == 2 else None
    with pytest.raises(SourceGone):
        uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=1).upload()
    assert not arrived.exists()


def test_a_file_replaced_by_rename_arrives_in_its_old_whole_version(proxy: FaultProxy, uploader, file, arrived) -> None:
    """The version that was opened is the one that is published, and the result's fingerprint is its."""
    content, newer, old = file.read_bytes(), file.with_name("newer"), fingerprint(file.stat())
    newer.write_bytes(b"new")

    def plan(seen: Seen) -> Fault | None:
        if proxy.count("/uploadChunk") == 2 and newer.exists():
            os.replace(newer, file)
        return None

    proxy.plan = plan
    result = uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=1).upload()
    assert arrived.read_bytes() == content
    assert result.fingerprint == old


def test_another_version_than_expected_is_not_sent(server, uploader, file) -> None:
    """The version that was queued, or none."""
    with pytest.raises(SourceChanged):
        uploader(server.url, file, expected=Fingerprint(1, 2, 3, 4, 5)).upload()
    uploader(server.url, file, expected=fingerprint(file.stat())).upload()


def test_a_touched_file_resumes_and_arrives_with_its_new_time(proxy: FaultProxy, uploader, file, arrived) -> None:
    """The same bytes under a new time are not sent from the beginning; the time published is the new one."""
    proxy.plan = lambda seen: Answer(403) if proxy.count("/uploadChunk") > 3 else None
    with pytest.raises(Exception, match="403"):
        uploader(proxy.url, file, chunk_size=MIB, parallel_chunks=1).upload()
    os.utime(file, ns=(1, 1_500_000_000_000_000_001))
    proxy.plan = lambda seen: None
    result = uploader(proxy.url, file).upload()
    assert result.resumed_from == 3 * MIB
    assert arrived.stat().st_mtime_ns == 1_500_000_000_000_000_001
    assert sha256(arrived) == sha256(file)


def test_two_clients_share_one_session_and_both_succeed(proxy: FaultProxy, uploader, file, arrived) -> None:
    """With one memory both work on the same session; both report success, the file is whole."""
    results = []

    def run() -> None:
        results.append(uploader(proxy.url, file, chunk_size=MIB // 2, parallel_chunks=2).upload())

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 3
    assert sha256(arrived) == sha256(file)


def test_a_completion_whose_end_was_lost_is_complete_and_ended_later(proxy, uploader, file, tmp_path, server) -> None:
    """The upload succeeds, the session waits among the endings, and the next run ends it."""
    proxy.plan = lambda seen: Cut(0) if seen.path == "/endUpload" else None
    result = uploader(proxy.url, file).upload()
    memory = SqliteMemory(str(tmp_path / "uploads.sqlite3"))
    assert [session_id for session_id, _ in memory.endings(proxy.url)] == [result.session_id]
    proxy.plan = lambda seen: None
    uploader(proxy.url, file).upload()
    assert memory.endings(proxy.url) == []
    assert memory.recall(UploadKey(proxy.url, os.fsencode(file), f"{tmp_path.name}/file".encode())) is None
    memory.close()


def test_a_spoiled_hash_is_taken_again(proxy: FaultProxy, uploader, file, arrived) -> None:
    """After digest-mismatch the problem is raised, and the next run hashes anew in a new session."""
    proxy.plan = once("/uploadChunk", answer("digest-mismatch"), 2)
    with pytest.raises(Problem):
        uploader(proxy.url, file, chunk_size=MIB).upload()
    phases: list[str] = []
    uploader(proxy.url, file, progress=lambda progress: phases.append(progress.phase)).upload()
    assert "hashing" in phases
    assert sha256(arrived) == sha256(file)


def test_always_verifying_hashes_every_time(server, uploader, file) -> None:
    """`verify="always"` takes no hash from the memory."""
    uploader(server.url, file).upload()
    phases: list[str] = []
    uploader(server.url, file, verify="always", progress=lambda progress: phases.append(progress.phase)).upload()
    assert "hashing" in phases


def test_progress_ends_with_done_and_never_shows_more_than_all(server, uploader, file) -> None:
    """The pictures of an upload are within bounds, and the last one says that it is done."""
    pictures: list[Progress] = []
    uploader(server.url, file, progress=pictures.append).upload()
    assert pictures[-1].phase == "done"
    assert all(0 <= picture.bytes_done <= picture.bytes_total == SIZE for picture in pictures)


def test_no_descriptor_is_left_open(server, uploader, file) -> None:
    """After uploads, also failed ones, the file is closed and unlocked."""
    uploader(server.url, file).upload()
    with pytest.raises(Unreachable):
        uploader(f"http://127.0.0.1:{free_port()}", file, attempts=1, name="other").upload()

    def held() -> list[str]:
        folder = "/proc/self/fd"
        return [n for n in os.listdir(folder) if os.path.realpath(f"{folder}/{n}") == os.path.realpath(file)]

    wait_until("the file is closed", lambda: not held(), 5)


def test_a_file_that_changes_while_the_last_answer_is_on_its_way(proxy: FaultProxy, uploader, file: Path) -> None:
    """The server has it whole, and it is another by now: that is not success."""

    def edited(answer: bytes) -> bytes:
        if b'"complete"' in answer:
            with file.open("r+b") as writer:
                writer.write(b"edited")
        return answer

    proxy.plan = lambda seen: Rewrite(edited) if seen.path == "/uploadChunk" else None
    with pytest.raises(SourceChanged):
        uploader(proxy.url, file).upload()
