"""A limit on the bandwidth: how well it holds over ten seconds, over all connections, and after a change."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.gauge import Gauge
from benchmarks.harness import MEBIBYTE, ended_within
from benchmarks.rows import Findings, Row, at_most, row
from tests.e2e.programs import Daemon, Program, Server, wait_until

TITLE = "A bandwidth limit"
ABOUT = (
    "Bytes to the server over ten seconds, heads included, counted by a relay between the two ends, over four "
    "connections and more; how far that is from the limit, either way."
)
PERCENT = 5.0
FIRST, THEN = 8, 3  # MiB/s
SETTLING = 2.0  # seconds: connections open, buffers fill


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """Ten seconds a figure, two when quick; once, since it is long."""
    seconds = 2.0 if quick else 10.0
    size = 400 * MEBIBYTE
    return Findings(
        rows=(*_by_hand(_folder(work / "by-hand"), size, seconds), *_daemon(_folder(work / "daemon"), size, seconds))
    )


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _hole(path: Path, size: int) -> Path:
    """A file that is all hole: nothing of it is still to be written to the disk while others are."""
    path.touch()
    os.truncate(path, size)
    return path


@contextmanager
def _gauged(work: Path) -> Iterator[Gauge]:
    server = Server(work)
    try:
        server.start()
        with Gauge(server.port) as gauge:
            yield gauge
    finally:
        server.kill()


def _by_hand(work: Path, size: int, seconds: float) -> list[Row]:
    file = _hole(work / "file.bin", size)
    with _gauged(work) as gauge:
        where = ("--to", f"http://127.0.0.1:{gauge.port}", "--state", str(work / "state.sqlite3"))
        client = Program(work, "client", "chunky", "upload", "--limit", f"{FIRST}MiB/s", str(file), *where)
        try:
            client.start()
            wait_until("content is sent", lambda: gauge.first_body, 60, client.text)
            time.sleep(SETTLING)
            command = f"chunky upload --limit {FIRST}MiB/s FILE --to URL"
            return [_off("chunky upload", gauge, FIRST, seconds, command)]
        finally:
            client.kill()


def _daemon(work: Path, size: int, seconds: float) -> list[Row]:
    """Two files at once under one limit, which is then changed while they are sent."""
    outbox = _folder(work / "outbox")
    for name in ("one", "two"):
        _hole(outbox / name, size)
    with _gauged(work) as gauge:
        uploads = {"bandwidth": f"{FIRST}MiB/s", "workers": 2}
        daemon = Daemon(work, f"http://127.0.0.1:{gauge.port}", [{"path": str(outbox)}], uploads=uploads)
        try:
            daemon.start()
            wait_until("content is sent", lambda: gauge.first_body, 60, daemon.text)
            time.sleep(SETTLING)
            before = _off("chunkyd, two files at once", gauge, FIRST, seconds, "chunkyd run")
            uploads["bandwidth"] = f"{THEN}MiB/s"
            daemon.write_config()
            daemon.ctl("reload")
            at_once = _off("chunkyd, the two seconds after a reload", gauge, THEN, 2.0, "chunkyctl reload")
            after = _off("chunkyd, changed while it sends", gauge, THEN, seconds, "chunkyctl reload")
            return [before, at_once, after]
        finally:
            ended_within(daemon, 30)


def _off(name: str, gauge: Gauge, limit: int, seconds: float, command: str) -> Row:
    """How far the bytes of some seconds are from the limit, in percent."""
    before, begun = gauge.passed, time.monotonic()
    time.sleep(seconds)
    rate = (gauge.passed - before) / (time.monotonic() - begun) / MEBIBYTE
    note = f"{rate:.3f} MiB/s where {limit} are allowed, {gauge.open} connections"
    goal = at_most(PERCENT) if seconds > 2 else None
    return row(name, "%", [abs(100 * (rate / limit - 1))], goal=goal, command=command, note=note)
