"""A server with much to remember: ten thousand sessions, a session in a hundred thousand pieces, a million rows due."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.client import Client, Session
from benchmarks.harness import resident
from benchmarks.rows import Findings, Peer, Row, at_most, row
from chunkyd.catalog.database import CatalogDatabase
from tests.e2e.programs import Server

TITLE = "A server with much to remember"
ABOUT = (
    "10,000 sessions left open; a session with 100,000 stored ranges, the most that "
    "there may be; tombstones of a million sessions, all due, which the janitor removes while a client asks "
    "for a status."
)
MOST = 250.0  # MiB
SAMPLES = 100
JANITOR_SECONDS = 10.0  # until its first round
OPENERS = 8  # clients at once
_DUE = """
    WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?1)
    INSERT INTO session (session_id, user, file_hash, total_bytes, target, state, created, expires_at, reserved)
    SELECT 'due-' || number, 'local', 'ab', 1000, CAST('d/n' || number AS BLOB), 'expired', ?2, ?2 + 1, 0 FROM numbers
"""
_PIECES = """
    WITH RECURSIVE numbers (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?1 - 1)
    INSERT INTO stored SELECT (SELECT sequence FROM session WHERE session_id = ?2), 2 * number, 2 * number + 1
        FROM numbers
"""


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """A twentieth of everything when quick. Once: each is long, or asked many times over."""
    part = 20 if quick else 1
    folders = [work / name for name in ("open", "pieces", "due")]
    for folder in folders:
        folder.mkdir()
    return Findings(
        rows=(
            *_many_open(folders[0], 10_000 // part),
            *_in_pieces(folders[1], 100_000 // part),
            *_all_due(folders[2], 1_000_000 // part, 10.0 if quick else 60.0),
        )
    )


def _many_open(work: Path, number: int) -> list[Row]:
    server = Server(work)
    try:
        server.start()
        client = Client(server.port)
        few = [_opening_milliseconds(client, b"few/%d" % each) for each in range(SAMPLES)]
        with ThreadPoolExecutor(OPENERS) as pool:
            opened = list(pool.map(_open, [server.port] * OPENERS, range(OPENERS), [number // OPENERS] * OPENERS))
        client.close()  # the server has closed a connection that was idle for so long
        many = [_opening_milliseconds(client, b"many/%d" % each) for each in range(SAMPLES)]
        answers = [1000 * _status_seconds(client, sessions[0]) for sessions in opened for _ in range(25)]
        client.close()
        memory, before = resident(server.pid), Peer(name="none open", figure=statistics.median(few))
        server.stop()
        start = time.monotonic()
        server.start()
        _client_at_work(server).close()
        return [
            row(f"opening one, {number:,} open", "ms", many, peer=before),
            row(f"status of one, {number:,} open", "ms", answers),
            row(f"memory, {number:,} open", "MiB", [memory], goal=at_most(MOST)),
            row(f"start, {number:,} open", "s", [time.monotonic() - start], verifies="a partial for each"),
        ]
    finally:
        server.kill()


def _open(port: int, which: int, number: int) -> list[Session]:
    client = Client(port)
    sessions = [client.initiate(b"open/%d/%d" % (which, each), 4096) for each in range(number)]
    client.close()
    return sessions


def _opening_milliseconds(client: Client, path: bytes) -> float:
    start = time.perf_counter()
    client.initiate(path, 4096)
    return 1000 * (time.perf_counter() - start)


def _in_pieces(work: Path, number: int) -> list[Row]:
    server = Server(work)
    try:
        server.start()
        client = Client(server.port)
        session = client.initiate(b"pieces", 2 * number)
        server.stop()
        database = CatalogDatabase(str(_catalog(server)))
        with database.writing():
            database.change(_PIECES, number, session.keys["Chunky-Session"])
        database.close()
        server.start()
        client = Client(server.port)
        answers = [1000 * _status_seconds(client, session) for _ in range(20)]
        chunks = []
        for each in range(50):
            start = time.perf_counter()
            client.put(session, 2 * each * (number // 50) + 1, b"x")
            chunks.append(1000 * (time.perf_counter() - start))
        client.close()
        return [
            row(f"status, {number:,} stored ranges", "ms", answers, note="every missing range is in the answer"),
            row(f"a chunk of one byte, {number:,} stored ranges", "ms", chunks, durable="yes, before the answer"),
            row(f"memory, {number:,} stored ranges", "MiB", [resident(server.pid, "VmHWM")], goal=at_most(MOST)),
        ]
    finally:
        server.kill()


def _all_due(work: Path, number: int, most: float) -> list[Row]:
    """The longest answer while the janitor works, for so many seconds at most, and its pace."""
    server = Server(work)
    try:
        server.start()
        _client_at_work(server).close()
        server.stop()
        database = CatalogDatabase(str(_catalog(server)))
        with database.writing():
            database.change(_DUE, number, time.time() - 1000)
        server.start()
        client = Client(server.port)
        session = client.initiate(b"asked", 4096)
        answers, begun, left = [], time.monotonic(), number
        deadline = begun + JANITOR_SECONDS + most
        while left and time.monotonic() < deadline:
            if left == number:
                begun = time.monotonic()  # it has not begun
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                answers.append(1000 * _status_seconds(client, session))
                time.sleep(0.002)
            (left,) = database.rows("SELECT count(*) FROM session WHERE state = 'expired'")[0]
        seconds = time.monotonic() - begun
        database.close()
        client.close()
        gone = number - left
        return [
            row(f"longest status, {number:,} sessions due", "ms", [max(answers)]),
            row(f"median status, {number:,} sessions due", "ms", [statistics.median(answers)]),
            row("sessions removed a second", "/s", [gone / seconds], note=f"{gone:,} in {seconds:.0f} s"),
        ]
    finally:
        server.kill()


def _status_seconds(client: Client, session: Session) -> float:
    start = time.perf_counter()
    client.status(session)
    return time.perf_counter() - start


def _client_at_work(server: Server) -> Client:
    """A client whom the server has answered: it takes connections before it has opened its catalog."""
    client = Client(server.port)
    client.initiate(b"first", 4096)
    return client


def _catalog(server: Server) -> Path:
    """The server's database, by its ending."""
    (found,) = server.data.glob("*.sqlite3")
    return found
