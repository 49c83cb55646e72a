"""Disks that lose what they were given, and catalogs that are gone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chunkyd.catalog.base import SessionState, StoredRange
from chunkyd.checkpoints import VARIABLE
from chunkyd.errors import Problem
from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target
from chunkyd.server.audit import audit
from chunkyd.server.start import OWN_FILES
from chunkyd.storage.base import Reader
from tests.server.bench import (
    Bench,
    Came,
    FailingCatalog,
    LossyStorage,
    Slow,
    SlowStorage,
    chunk_of,
    run,
    sha,
    until,
)
from tests.server.process import ServerProcess, serving, wait_until

DATA = bytes(range(250)) * 20


def test_a_failed_sync_counts_nothing_and_is_not_forgotten() -> None:
    """Chunks written before a failed sync are missing, those of its neighbours too; sent again, the file is whole."""

    async def scenario() -> None:
        storage = LossyStorage()
        bench = Bench(storage)
        session = await bench.open(DATA)
        await bench.put(session, DATA, 0, 1000)
        storage.failures = 1
        parts = [(start, start + 1000) for start in range(1000, 5000, 1000)]
        done = await asyncio.gather(*(bench.put(session, DATA, *part) for part in parts), return_exceptions=True)
        assert any(isinstance(result, OSError) for result in done)
        await bench.put(await bench.open(b"later", b"g"), b"later")  # the failed group is over
        for part, result in zip(parts, done, strict=True):
            if isinstance(result, OSError):
                assert session.stored.missing(*part) == [part]
        for start, stop in session.missing():
            await bench.put(session, DATA, start, stop)
        assert session.status() == "complete"
        assert bench.content() == DATA
        await bench.close()

    run(scenario)


def test_a_failed_sync_holds_nobody_up_who_comes_after_it() -> None:
    """While a slow chunk still holds the file as it was opened before the failure, the next chunk is stored."""

    async def scenario() -> None:
        storage = LossyStorage()
        bench = Bench(storage)
        session = await bench.open(DATA)
        slow = Slow(1000)
        held = asyncio.create_task(bench.uploads.chunk(session, chunk_of(DATA[:1000], 0, 5000), slow))
        slow.give(DATA[:100])
        await until(lambda: bool(session.claimed))
        storage.failures = 1
        with pytest.raises(OSError, match="lost"):
            await bench.put(session, DATA, 1000, 2000)
        assert await bench.put(session, DATA, 1000, 2000) == "incomplete"
        slow.give(DATA[100:1000])
        with pytest.raises(OSError, match="lost before"):  # nobody knows what of its bytes went with the others
            await held
        assert session.stored.missing(0, 2000) == [(0, 1000)]
        await bench.put(session, DATA, 0, 1000)
        assert await bench.put(session, DATA, 2000) == "complete"
        assert bench.content() == DATA
        await bench.close()

    run(scenario)


def test_a_hash_under_way_forgets_bytes_whose_commit_failed() -> None:
    """Bytes that were being hashed when their commit failed are not in the hash of those that come instead."""

    async def scenario() -> None:
        storage = SlowStorage()
        bench = Bench(storage)
        session = await bench.open(DATA)
        bench.catalog.full = {"record_stored"}
        wrong = bytes(3000)
        with pytest.raises(Problem):
            await bench.uploads.chunk(session, chunk_of(wrong, 0, 5000), Came(wrong))
        assert await asyncio.to_thread(storage.reading.wait, 5)
        storage.go_on.set()
        bench.catalog.full = set()
        assert await bench.put(session, DATA) == "complete"
        assert bench.content() == DATA
        await bench.close()

    run(scenario)


def test_a_copy_whose_sync_failed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a kept version that a disk lost on their way are copied once more, never published as they are."""
    monkeypatch.setattr("chunkyd.server.finish.FIRST_RETRY_SECONDS", 0.02)

    async def scenario() -> None:
        storage = LossyStorage()
        monkeypatch.setattr(storage, "clone", lambda target, session_id: False)
        bench = Bench(storage)
        await bench.upload(DATA)
        storage.failures = 1
        session = await bench.open(DATA, b"copy")
        assert session.status() == "complete"
        assert not storage.failures
        assert bench.content(b"copy") == DATA
        await bench.close()

    run(scenario)


def test_a_new_catalog_learns_what_is_published() -> None:
    """Every file is recorded again, what a session publishes meanwhile is newer, and it is done once only."""

    async def scenario() -> None:
        bench = Bench()
        for number in range(100):
            await bench.upload(DATA + b"%d" % number, b"folder/%d" % number)
        again = Bench(bench.storage)
        newer = await again.open(b"newer", b"folder/7")
        rebuilding = asyncio.create_task(again.uploads.rebuild())
        await again.put(newer, b"newer")
        await rebuilding
        assert again.catalog.knows_files()
        assert len(list(again.catalog.files())) == 100
        record = again.catalog.file(Target("u", b"folder/7"))
        assert record is not None and record.file_hash == sha(b"newer") and record.sequence == newer.record.sequence
        session = await again.open(DATA + b"8", b"elsewhere")
        assert session.status() == "complete"
        again.catalog.remove_file(Target("u", b"folder/9"))
        await again.uploads.rebuild()
        assert again.catalog.file(Target("u", b"folder/9")) is None
        await again.close()
        await bench.close()

    run(scenario)


def test_a_rebuild_stops_with_the_server() -> None:
    """Nothing is read after a stop, and the next start goes on."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(DATA)
        again = Bench(bench.storage)
        await again.uploads.close()
        await again.uploads.rebuild()
        assert not again.catalog.knows_files()
        again.threads.close()
        await bench.close()

    run(scenario)


class _Unreadable:
    """Published files that are there, on a disk that does not give them."""

    def __init__(self, *targets: Target) -> None:
        self._targets = targets

    def walk(self, user: str | None) -> Iterator[tuple[Target, Fingerprint]]:
        yield from ((target, Fingerprint(1, 1, 1, 1, 1)) for target in self._targets)

    def open(self, target: Target) -> Reader | None:
        raise OSError(errno.EIO, "bad sector")


def test_an_audit_goes_on_behind_what_cannot_be_read() -> None:
    """A disk that fails under one file is a finding about that file, not the end of the audit."""

    async def scenario() -> None:
        bench = Bench()
        await bench.upload(b"one", b"one")
        await bench.upload(b"two", b"two")
        targets = [Target("u", b"one"), Target("u", b"two")]
        findings = list(audit(_Unreadable(*targets), bench.catalog))
        assert [(found.target, found.verdict) for found in findings] == [(each, "unreadable") for each in targets]
        await bench.close()

    run(scenario)


def test_noise_instead_of_the_catalog(tmp_path: Path) -> None:
    """A killed server whose catalog is overwritten comes up, says so, and needs no byte of what it has."""
    with serving(tmp_path) as server:
        server.client().upload(DATA, b"kept/file")
        open_session = server.client().initiate(b"x" * 10_000, b"unfinished")
        server.kill()
        catalog = server.data / "catalog.sqlite3"
        for ending in ("", "-wal"):  # the log alone would bring all of it back
            catalog.with_name(catalog.name + ending).write_bytes(b"noise " * 5000)
        server.start()
        assert server.lines("error.*was damaged and is now")
        wait_until(lambda: server.lines("error.*1 published files were recorded again"))
        assert len(list(server.data.glob("catalog.sqlite3.damaged-*[0-9]"))) == 1
        open_session.client = server.client()
        assert open_session.status().problem == "invalid-session-id"
        assert not list((server.data / "partial").iterdir())
        assert server.client().initiate(DATA, b"copy").reply.json["status"] == "complete"
        assert server.file("kept/file").read_bytes() == server.file("copy").read_bytes() == DATA
        server.terminate()
        assert server.start().lines("was damaged") == server.lines("was damaged")
        assert len(server.lines("recorded again")) == 2


def test_users_outlive_a_damaged_catalog(tmp_path: Path) -> None:
    """Tokens are saved out of a catalog whose other pages are torn, so that nobody is locked out."""
    with serving(tmp_path, auth="tokens") as server:
        token = server.command("user", "add", "ann").stdout.splitlines()[-1]
        client = server.client(token)
        client.upload(DATA, b"f")
        server.terminate()
        _tear(server.data / "catalog.sqlite3", "session")
        server.start()
        assert server.lines("were saved from the damaged catalog")
        wait_until(lambda: server.lines("1 published files were recorded again"))
        assert server.client(token).initiate(DATA, b"f").reply.json["status"] == "complete"


@pytest.mark.parametrize("superseded", [False, True])
def test_a_publication_that_left_no_file(superseded: bool) -> None:
    """Renamed, says the record, but neither partial nor file is there: never complete, unless a later one took over."""

    async def scenario() -> None:
        bench = Bench()
        session = await bench.open(DATA, b"a")
        name = session.session_id
        if superseded:
            await bench.upload(b"later", b"a/b")
        bench.catalog.move(name, {SessionState.RECEIVING}, SessionState.PUBLISHING, inode=12345)
        bench.storage.discard(name)
        await bench.close()
        again = Bench(bench.storage, bench.catalog, clock=bench.clock)
        again.uploads.load()
        again.uploads.resume()
        await until(lambda: not again.uploads._registry.live)
        if superseded:
            assert (await again.uploads.find("u", name)).status() == "complete"
        else:
            with pytest.raises(Problem, match="Invalid session ID"):
                await again.uploads.find("u", name)
        await again.close()

    run(scenario)


def test_many_gaps_are_closed_by_one_range() -> None:
    """A chunk over stored pieces is recorded as one range, not as one for each gap it fills."""

    async def scenario() -> None:
        catalog = ListeningCatalog()
        bench = Bench(catalog=catalog)
        session = await bench.open(DATA)
        for start in range(0, 1000, 4):
            await bench.put(session, DATA, start, start + 1)
        await bench.put(session, DATA, 0, 1000)
        assert [(item.start, item.stop) for item in catalog.heard[-1]] == [(0, 1000)]
        assert await bench.put(session, DATA, 1000) == "complete"
        assert bench.content() == DATA
        await bench.close()

    run(scenario)


class ListeningCatalog(FailingCatalog):
    """A catalog that remembers what was to be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[list[StoredRange]] = []

    def record_stored(self, batch: Iterable[StoredRange]) -> None:
        self.heard.append(list(batch))
        super().record_stored(self.heard[-1])


def test_few_open_files_are_shared_out(tmp_path: Path) -> None:
    """More connections than there are files for wait outside; the uploads of those inside have what they need."""
    with serving(tmp_path) as server:
        assert server.process is not None
        server.terminate()
        server.files = 240
        server.start()
        before = _open_files(server)
        with contextlib.ExitStack() as stack:
            for _ in range(200):
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            inside = (240 - OWN_FILES) // 2  # each is one file, and the session it may write to another
            wait_until(lambda: _open_files(server) >= before + inside)
            for _ in range(50):
                assert _open_files(server) < before + inside + 20  # what the server may open for itself meanwhile
                time.sleep(0.02)
        with ThreadPoolExecutor(30) as pool:
            sessions = pool.map(lambda number: server.client().upload(DATA, b"%d" % number), range(30))
            assert {session.status().json["status"] for session in sessions} == {"complete"}
        assert not server.lines(" error ")


def _open_files(server: ServerProcess) -> int:
    assert server.process is not None
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def test_too_few_open_files_are_refused(tmp_path: Path) -> None:
    """A server that could not store anything says how many files it needs, and does not start."""
    server = ServerProcess(tmp_path)
    server.files = 64
    with pytest.raises(AssertionError, match="Only 64 files may be open at once, the server needs 192"):
        server.start()


def _tear(path: Path, table: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    with path.open("r+b") as raw:
        raw.seek((root - 1) * size)
        raw.write(b"\xa5" * size)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"somebody's")


REPLACED = {
    "a folder": _folder,
    "a link": lambda path: path.symlink_to(path.parent.parent / "elsewhere"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("kind", REPLACED)
def test_something_else_in_place_of_a_partial(tmp_path: Path, kind: str, restarted: bool) -> None:
    """It is no partial: the session is gone, its client begins another; it is neither written to nor published."""
    with serving(tmp_path) as server:
        (server.data / "elsewhere").write_bytes(DATA)
        session = server.client().initiate(DATA, b"f")
        assert session.put(0, 100).status == 200
        if restarted:
            server.terminate()
        partial = server.data / "partial" / session.id
        partial.unlink()
        REPLACED[kind](partial)
        if restarted:
            server.start()
            session.client = server.client()
        answer = session.put(100, len(DATA))  # taken by who still has the partial open for its hash, or refused
        assert answer.problem == "invalid-session-id" or answer.json["status"] != "complete"
        wait_until(lambda: session.status().problem == "invalid-session-id")
        assert server.client().upload(DATA, b"f").status().json["status"] == "complete"
        server.terminate()
        server.start()
        assert server.file("f").read_bytes() == DATA and not server.file("f").is_symlink()
        assert (server.data / "elsewhere").read_bytes() == DATA
        assert partial.is_dir() == (kind == "a folder") == bool(server.lines("is a folder, and so none of the server"))
        assert not server.lines("Traceback")


def test_a_link_in_place_of_a_partial_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where it takes the partial's place once every byte is stored: a link would show the file of another."""
    monkeypatch.setenv(VARIABLE, "server.publish.recorded=stop")
    with serving(tmp_path) as server:
        assert server.process is not None
        session = server.client().initiate(DATA, b"f")
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(session.put, 0, len(DATA))
            wait_until(lambda: "T (stopped)" in Path(f"/proc/{server.process.pid}/status").read_text())
            partial = server.data / "partial" / session.id
            partial.unlink()
            partial.symlink_to("/etc/hostname")
            server.process.send_signal(signal.SIGCONT)
            assert answer.result(20).json.get("status") != "complete"
        wait_until(lambda: session.status().problem == "invalid-session-id")
        assert not os.path.lexists(server.file("f"))
        assert not server.lines("Traceback")
