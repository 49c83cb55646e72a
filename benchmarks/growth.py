"""Ten times the work: how many times the time? Nothing may grow with the square of anything."""

from __future__ import annotations

import os
import random
import shutil
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import structs

from benchmarks.client import Client
from benchmarks.contenders import CHUNKY
from benchmarks.filled import fill, know_tree, open_state, queue_of
from benchmarks.harness import ended_within, measure, settled_start
from benchmarks.rows import Findings, Peer, Row, at_most_of_peer, row
from chunkyd.catalog.base import SessionRecord, SessionState
from chunkyd.control.client import ControlClient
from chunkyd.jobs.queue import Queue
from chunkyd.protocol.ranges import RangeSet
from chunkyd.server.session import LiveSession
from tests.e2e.programs import Daemon, Server, wait_until

TITLE = "Ten times the work"
ABOUT = (
    "Each row beside a tenth of its work: the ratio of the times, to which start-up and what else does not grow adds "
    "on both sides. 100,000 separate ranges are the most that the protocol lets a session have."
)
TIMES = 10
MOST = 11.0
SENDERS = 8


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """The smaller and the greater amount in turn, `pairs` times over, three at most; half of both when quick."""
    unit = 1 if quick else 2
    cases: tuple[tuple[str, int, Callable[[Path, int], float]], ...] = (
        ("files of 1 KiB sent by chunky upload", 100 * unit, _files),
        ("folders of ten known files, start to watching", 100 * unit, _folders),
        # So many that the log of the table is carried over in both, not in the greater one only.
        ("jobs from queued to done, in the table", 500 * unit, _jobs),
        ("rows in the table, for 500 jobs' way", 10_000 * unit, _rows),
        ("separate ranges stored by the server, in any order", 5_000 * unit, _ranges),
        ("of them through a session's rules alone", 5_000 * unit, _rules),
    )
    rows = [_grown(work, min(pairs, 3), *case) for case in cases]
    # Without a goal: a part of what the server does, and so short that most of its growth is the caches'.
    alone = structs.replace(_grown(work, min(pairs, 3), "put in one set", 5_000 * unit, _set), goal=None)
    return Findings(rows=(*rows, alone))


def _grown(work: Path, pairs: int, name: str, amount: int, cost: Callable[[Path, int], float]) -> Row:
    less: list[float] = []
    more: list[float] = []
    for _ in range(pairs):
        for number, seconds in ((amount, less), (TIMES * amount, more)):
            folder = work / "growth"
            folder.mkdir()
            seconds.append(cost(folder, number))
            shutil.rmtree(folder)
    peer = Peer(name=f"{amount:,}", figure=sorted(less)[len(less) // 2])
    return row(f"{TIMES * amount:,} {name}", "s", more, goal=at_most_of_peer(MOST), peer=peer)


def _files(work: Path, number: int) -> float:
    source = work / "source"
    for each in range(number):
        path = source / f"d{each // 100}" / str(each)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1024))
    return measure(CHUNKY, source, work, 0).wall


def _folders(work: Path, number: int) -> float:
    root = work / "outbox"
    for each in range(number):
        folder = root / f"{each // 100}" / f"{each % 100}"
        folder.mkdir(parents=True)
        for name in range(10):
            (folder / str(name)).touch()
    daemon = Daemon(work, "http://127.0.0.1:9", [{"path": str(root)}])
    tables = open_state(daemon.state)
    know_tree(tables, "outbox", root)
    tables.close()
    time.sleep(0.5)
    try:
        start = time.monotonic()
        settled_start(daemon)
        control = ControlClient(str(daemon.socket))
        wait_until("it is watched", lambda: control.status().folders[0].last_scan, 120, daemon.text)
        return time.monotonic() - start
    finally:
        ended_within(daemon, 30)


def _jobs(work: Path, number: int) -> float:
    """Claimed, sent and done, one after the other: what the daemon writes down for each."""
    tables = open_state(work / "state")
    fill(tables, "outbox", number, number)
    try:
        return _ways(queue_of(tables), number)
    finally:
        tables.close()


def _rows(work: Path, number: int) -> float:
    """The same for a fixed number of jobs, in a table of so many rows."""
    tables = open_state(work / "state")
    fill(tables, "outbox", number, number // 2)
    try:
        return _ways(queue_of(tables), 500)
    finally:
        tables.close()


def _ways(queue: Queue, number: int) -> float:
    url = "http://127.0.0.1:9"
    queue.send_to(url)
    start = time.perf_counter()
    for _ in range(number):
        job = queue.claim("benchmark", ("outbox",))
        assert job is not None
        queue.hashed(job, "ab" * 32)
        queue.opened(job, f"s{job.id}", url, "ab" * 32)
        queue.finishing(job, url)
        queue.done(job, job.fingerprint)
    return time.perf_counter() - start


def _ranges(work: Path, number: int) -> float:
    """Single bytes, none beside another, each a chunk of its own, in any order; then the status, which lists every gap.

    Several connections, as an upload has: what comes at the same time is committed together.
    """
    order = _any_order(number)
    server = Server(work)
    try:
        server.start()
        clients = [Client(server.port) for _ in range(SENDERS)]
        session = clients[0].initiate(b"ranges", 2 * number + 1)

        def send(client: Client, places: Sequence[int]) -> None:
            for each in places:
                client.put(session, 2 * each, b"x")

        with ThreadPoolExecutor(SENDERS) as senders:
            start = time.monotonic()
            for sent in [senders.submit(send, each, order[turn::SENDERS]) for turn, each in enumerate(clients)]:
                sent.result()
        missing = clients[0].status(session)["missingRanges"]
        seconds = time.monotonic() - start
        for client in clients:
            client.close()
        if len(missing) != number:
            raise RuntimeError(f"{len(missing)} ranges are missing, not {number}")
        return seconds
    finally:
        server.kill()


def _rules(work: Path, number: int) -> float:
    """What the server does for each of them in memory: judge it, claim it, count it as checked, stored, released."""
    total = 2 * number + 1
    record = SessionRecord("s", 1, "u", "0" * 64, total, b"f", SessionState.RECEIVING, 0.0, 1e12)
    session = LiveSession(record, [])
    order = _any_order(number)
    start = time.perf_counter()
    for each in order:
        claim = session.admit((2 * each, 2 * each + 1), total, 1)
        assert claim is not None
        session.claim(claim)
        session.check([claim.chunk])
        session.store([claim.chunk], 1e12)
        session.release(claim)
    seconds = time.perf_counter() - start
    assert len(session.stored) == number
    return seconds


def _set(work: Path, number: int) -> float:
    found = RangeSet()
    order = _any_order(number)
    start = time.perf_counter()
    for each in order:
        found.add(2 * each, 2 * each + 1)
    return time.perf_counter() - start


def _any_order(number: int) -> array[int]:
    """The same each time; of machine integers, since what comes with a request is no object yet either."""
    order = list(range(number))
    random.Random(1).shuffle(order)  # noqa: S311
    return array("q", order)
