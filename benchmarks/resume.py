"""A big file whose client was killed at 99 %: what is done twice, and how soon it goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path

from benchmarks.gauge import Gauge
from benchmarks.harness import GIBIBYTE, LONGEST_RUN, MEBIBYTE, random_file
from benchmarks.rows import Findings, at_most, row
from tests.e2e.programs import BIN, Program, Server, free_port, wait_until

TITLE = "Resuming"
ABOUT = (
    "A 4 GiB file whose `chunky upload` was killed (SIGKILL) when 99 % were stored; the same command again. The server "
    "was stopped and started in between."
)
CHUNK = 4 * MEBIBYTE
PARALLEL = 4
FIRST_BYTE_SECONDS = 0.3
_STORED = re.compile(rb"PATCH /uploadChunk 200 .*? range=(\d+)-(\d+)/")
COMMAND = "chunky upload --chunk-size 4MiB FILE --to URL"


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """4 GiB, interrupted once; the first byte `pairs` times over. When quick 512 MiB, interrupted at 90 %."""
    size, share = (GIBIBYTE // 2, 0.9) if quick else (4 * GIBIBYTE, 0.99)
    file = random_file(work / "file.bin", size)
    time.sleep(2.5)  # a file just written could change without its times showing it; its hash is not remembered
    server = Server(work)
    server.start()
    try:
        stored, received = _interrupted(work, server, file, int(share * size))
        server.stop()
        port, server = server.port, Server(work, free_port(), server.data)
        server.start()
        firsts = [_first_byte(work, port, server.port, file) for _ in range(pairs)]
        answer, read, wall = _to_the_end(work, port, server.port, file)
    finally:
        server.kill()
    (sent,) = answer["files"]
    again = max(0, sent["bytesSent"] - (size - min(size, received)))
    hashed = max(0, read - sent["bytesSent"])
    return Findings(
        rows=(
            row("start to first byte of content", "s", firsts, goal=at_most(FIRST_BYTE_SECONDS), command=COMMAND),
            row(
                "sent a second time",
                "MiB",
                [again / MEBIBYTE],
                goal=at_most(PARALLEL * CHUNK / MEBIBYTE),
                note=f"{PARALLEL} chunks of 4 MiB are in flight; {(size - stored) / MEBIBYTE:.0f} MiB were not stored",
            ),
            row(
                "read from disk beyond what was sent",
                "MiB",
                [hashed / MEBIBYTE],
                goal=at_most(64),
                note=f"a second hash would read {size / MEBIBYTE:.0f}; the program itself is some 40",
            ),
            row("start to the end", "s", [wall], verifies="SHA-256 of the whole at both ends", durable="yes"),
        )
    )


def _client(work: Path, port: int, file: Path) -> Program:
    where = ("--to", f"http://127.0.0.1:{port}", "--state", str(work / "state.sqlite3"))
    return Program(work, "client", "chunky", "upload", "--chunk-size", "4MiB", str(file), *where)


def _interrupted(work: Path, server: Server, file: Path, enough: int) -> tuple[int, int]:
    """Bytes stored, and bytes that reached the server at all, when the client is killed with so many stored."""
    client = _client(work, server.port, file)
    client.start()
    deadline = time.monotonic() + LONGEST_RUN
    try:
        while (stored := _bytes_stored(server)) < enough:
            if not client.running() or time.monotonic() > deadline:
                raise RuntimeError(f"the client ended before it could be killed\n{client.text()}")
            time.sleep(0.001)
        os.kill(client.pid, 19)  # SIGSTOP: what it has handed to the kernel still arrives
        time.sleep(0.05)
        received = _bytes_received(server.port)
    finally:
        client.kill()
    wait_until("the server has let go", lambda: _bytes_received(server.port) == 0, 60)
    stored = _bytes_stored(server)
    return stored, max(received, stored)


def _bytes_stored(server: Server) -> int:
    return sum(int(last) + 1 - int(first) for first, last in _STORED.findall(server.log.read_bytes()))


def _bytes_received(port: int) -> int:
    """By the connections that are open at the server now, as the kernel counts; heads are a few hundred bytes."""
    said = subprocess.run(["ss", "-tinH", f"sport = :{port}"], capture_output=True, text=True, check=True, timeout=20)
    return sum(map(int, re.findall(r"bytes_received:(\d+)", said.stdout)))


def _first_byte(work: Path, port: int, target: int, file: Path) -> float:
    """Seconds from the start of the program to the first byte of content on the wire, which is where it ends."""
    with Gauge(target, port, cut=True) as gauge:
        client = _client(work, port, file)
        start = time.monotonic()
        client.start()
        try:
            wait_until("content is sent", lambda: gauge.first_body, 60, client.text)
        finally:
            client.kill()
        assert gauge.first_body is not None
        return gauge.first_body - start


def _to_the_end(work: Path, port: int, target: int, file: Path) -> tuple[dict[str, list[dict[str, int]]], int, float]:
    """What the program says, how many bytes it read (by the kernel's count), and its seconds."""
    command = [str(BIN / "chunky"), "upload", "--json", str(file), "--to", f"http://127.0.0.1:{port}"]
    with Gauge(target, port), (work / "answer.json").open("wb") as answer:
        start = time.monotonic()
        process = subprocess.Popen([*command, "--state", str(work / "state.sqlite3")], stdout=answer)
        try:
            wait_until("it ends", lambda: os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), 120)
            wall = time.monotonic() - start
            counts = Path(f"/proc/{process.pid}/io").read_text()  # of the process that has ended but is still there
        finally:
            process.kill()
            process.wait()
    return json.loads((work / "answer.json").read_bytes()), int(counts.split()[1]), wall
