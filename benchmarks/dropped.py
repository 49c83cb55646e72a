"""A folder is dropped into a watched one: how long until all of it is at the other end, beside Syncthing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from benchmarks import syncthing
from benchmarks.harness import (
    LONGEST_RUN,
    MEBIBYTE,
    Contender,
    Run,
    Runs,
    at_hand,
    content,
    ended_within,
    group_cpu,
    prewarm,
    random_file,
)
from benchmarks.peers import lacks
from benchmarks.rows import Findings
from tests.e2e.programs import Daemon, Program, Server, wait_until

TITLE = "A folder dropped into a watched one"
ABOUT = (
    "Both ends run and are idle; a folder of files that were touched just before is renamed into the watched one, and"
    " the clock stops when the last name stands at the receiver. Both senders wait a second for quiet, which is in the"
    " figure. Syncthing encrypts what it sends; chunkyd speaks plain HTTP here."
)
DELAY_SECONDS = 1  # Syncthing takes whole seconds
LOOKS_SECONDS = 0.05


@dataclass(frozen=True)
class Link:
    """Two ends that run: a folder that is watched, the one where it arrives, and each end's process."""

    watched: Path
    arrived: Path
    sender: Program
    receiver: Program


@contextmanager
def _chunkyd(work: Path, source: Path) -> Iterator[Link]:
    outbox = work / "outbox"
    outbox.mkdir()
    server = Server(work)
    daemon = Daemon(work, server.url, [{"path": str(outbox), "settle": f"{DELAY_SECONDS}s"}])
    try:
        server.start()
        daemon.start()
        wait_until("the folder is watched", lambda: daemon.ctl("status")["folders"][0]["lastScan"], 30, daemon.text)
        yield Link(outbox, server.files() / "outbox", daemon, server)
    finally:
        for program in (daemon, server):
            ended_within(program, 30)


@contextmanager
def _syncthing(work: Path, source: Path) -> Iterator[Link]:
    with syncthing.two(work, DELAY_SECONDS) as (sender, receiver):
        yield Link(sender.folder, receiver.folder, sender, receiver)


CHUNKYD = Contender("chunkyd", "SHA-256 of the whole at both ends", "yes, before the name", _chunkyd)
SYNCTHING = Contender("Syncthing", "SHA-256 of each block", "yes", _syncthing, lacks=lacks("syncthing"))


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """1 GiB in one file, and 2,000 files of 16 KiB; 64 MiB and 100 files when quick."""
    contenders, missing = at_hand((CHUNKYD, SYNCTHING))
    big = work / "one file"
    big.mkdir()
    random_file(big / "file.bin", (64 if quick else 1024) * MEBIBYTE)
    small = work / "many files"
    small.mkdir()
    for number in range(100 if quick else 2000):
        (small / f"file{number:04}").write_bytes(os.urandom(16384))
    rows = []
    for source in (big, small):
        size = content(source)[1]
        ours, *others = _in_turn(contenders, source, work, pairs)
        found = [ours.row(size, others[0] if others else None), *(each.row(size) for each in others)]
        rows += [replace(row, name=f"{row.name}, {source.name}") for row in found]
    return Findings(rows=tuple(rows), missing=missing)


def _in_turn(contenders: Sequence[Contender[Link]], source: Path, work: Path, pairs: int) -> list[Runs]:
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for _ in range(pairs):
        for contender in contenders:
            runs[contender.name].append(_measure(contender, source, work))
    return [Runs(contender, tuple(runs[contender.name])) for contender in contenders]


def _measure(contender: Contender[Link], source: Path, work: Path) -> Run:
    """One run between two fresh ends; an error where not everything arrived. The source is there again afterwards."""
    folder = work / "run"
    folder.mkdir()
    expected = content(source)
    try:
        with contender.receiver(folder, source) as link:
            prewarm(expected[1])
            before = group_cpu(link.sender.pid), group_cpu(link.receiver.pid)
            start = time.monotonic()
            for path in source.iterdir():
                path.touch()  # else chunkyd takes it for one that nobody writes to, and waits for nothing
            dropped = source.rename(link.watched / "dropped")
            _wait_for(expected[0], link.arrived / "dropped", start)
            wall = time.monotonic() - start
            after = group_cpu(link.sender.pid), group_cpu(link.receiver.pid)
            arrived = content(link.arrived / "dropped")
            dropped.rename(source)
        if arrived != expected:
            raise RuntimeError(f"{contender.name}: {expected} (files, bytes) were dropped, {arrived} arrived")
        return Run(wall, after[0] - before[0], after[1] - before[1])
    finally:
        shutil.rmtree(folder)
        os.sync()  # what is left to write must not burden the next run


def _wait_for(number: int, folder: Path, start: float) -> None:
    """Until so many names stand there; both receivers give a file its name last, and a hidden one before."""
    while True:
        names = os.listdir(folder) if folder.is_dir() else []
        if sum(not name.startswith(".") for name in names) == number:
            return
        if time.monotonic() > start + LONGEST_RUN:
            raise RuntimeError(f"{len(names)} of {number} files arrived within {LONGEST_RUN:g} s")
        time.sleep(LOOKS_SECONDS)
