"""A file that is read once, and the death of one end or of both in every phase of its way."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from chunkyd.checkpoints import VARIABLE
from chunkyd.upload.midstate import begin
from tests.e2e.programs import BIN, Server, running, sha256, wait_until
from tests.faults.late_scenarios import BIG, declared
from tests.faults.stage import Stage

DAEMON = [
    "upload.session.opening",
    "upload.session.opened",
    "upload.session.remembered",
    "upload.chunk.sending:4",
    "upload.chunk.stored:4",
    "upload.hash.followed",
    "upload.hash.declared",
    "upload.complete.heard",
    "upload.complete.recorded",
    "jobs.arrival.recorded",
    "jobs.hashed",
]
SERVER = [
    "server.session.recorded",
    "server.chunk.synced:4",
    "server.chunk.recorded:4",
    "server.hash.recorded",
    "server.hash.answering",
    "server.verdict.right",
    "server.publish.recorded",
    "storage.publish.renamed",
    "server.complete.recorded",
    "server.end.recorded",
]
SHORT = {"upload.chunk.stored:4", "upload.hash.followed", "server.chunk.recorded:4", "server.hash.recorded"}


def armings(names: list[str]) -> list[object]:
    """All of them; those that are not in the short list are for the long tests."""
    return [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.long]) for name in names]


@pytest.mark.parametrize("arming", armings(DAEMON))
def test_the_daemon_dies(tmp_path: Path, arming: str) -> None:
    """What is stored stays, the whole is hashed once more where its hash was not taken yet, and it arrives."""
    with Stage(tmp_path) as stage:
        stage.put("film.mov", BIG)
        stage.start_server()
        stage.daemon_dies(arming)
        stage.at_rest()
        assert declared(stage)


@pytest.mark.parametrize("arming", armings(SERVER))
def test_the_server_dies(tmp_path: Path, arming: str) -> None:
    """The session is what it was, with or without its hash, and the file arrives."""
    with Stage(tmp_path) as stage:
        stage.put("film.mov", BIG)
        stage.server_dies(arming, stage.daemon.begin)
        stage.start_daemon()
        stage.at_rest()
        assert declared(stage)


@pytest.mark.parametrize("first", armings(["upload.chunk.stored:4", "upload.hash.declared"]))
def test_both_die(tmp_path: Path, first: str) -> None:
    """The daemon, then the server, while neither has said its last word of the file."""
    with Stage(tmp_path) as stage:
        stage.put("film.mov", BIG)
        stage.start_server()
        stage.daemon_dies(first, again=False)
        stage.server.kill()
        stage.kills += 1
        stage.start_server()
        stage.start_daemon()
        stage.at_rest()
        assert declared(stage)


def test_edited_in_the_middle(tmp_path: Path) -> None:
    """Bytes are changed under a lease: the writer is let in, and only the new version is ever published."""
    with Stage(tmp_path, daemon={"uploads": {"bandwidth": "4MiB/s", "chunk_size": "1MiB"}}) as stage:
        path = stage.put("film.mov", BIG)
        stage.start_server()
        stage.start_daemon()
        wait_until("it is in the middle", lambda: len(stage.said_stored()) >= 2, 30, stage.daemon.text)
        with path.open("r+b") as file:
            file.seek(BIG // 2)
            file.write(b"edited")
        edited = sha256(path)
        stage.to_send += BIG
        stage.at_rest(states=("superseded", "done"))
        assert sha256(stage.server.files() / "outbox" / "film.mov") == edited
        assert stage.server.text().count("complete: outbox/film.mov") == 1


def test_opened_for_writing_again_and_again(tmp_path: Path) -> None:
    """Nothing is written, but each time the lease is gone: hashed first the second time, it arrives all the same."""
    with Stage(tmp_path, daemon={"uploads": {"bandwidth": "6MiB/s", "chunk_size": "1MiB"}}) as stage:
        path = stage.put("film.mov", BIG)
        stage.start_server()
        stage.start_daemon()
        wait_until("it is in the middle", lambda: len(stage.said_stored()) >= 2, 30, stage.daemon.text)
        path.open("r+b").close()
        stage.to_send += BIG
        wait_until("it is in the middle again", lambda: len(stage.said_stored()) >= 7, 60, stage.daemon.text)
        path.open("r+b").close()
        stage.kills += 1  # an interruption like one: what was on its way comes twice
        stage.at_rest()
        assert declared(stage) == 0


PARTS = 3
KEPT_BYTES = 8 << 20  # how far behind it may be


@pytest.mark.parametrize("edited", [False, True])
def test_the_hash_goes_on_where_it_was(tmp_path: Path, edited: bool) -> None:
    """`chunky` is killed with two parts of the hash remembered: the rest alone is hashed; an edited file, wholly."""
    server, film = Server(tmp_path), tmp_path / "film"
    size = PARTS * KEPT_BYTES + BIG
    film.write_bytes(os.urandom(size))
    command = [str(BIN / "chunky"), "upload", str(film), "--to", server.url, "--state", str(tmp_path / "state.sqlite3")]
    wait_until("its times count", lambda: time.time() - film.stat().st_ctime > 2.1, 5)
    with running(server):
        killed = subprocess.run(command, env=os.environ | {VARIABLE: "upload.hash.kept:2"}, check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL
        if edited:
            with film.open("r+b") as file:
                file.write(b"edited")
        log = tmp_path / "strace"
        watched = ["strace", "-f", "-qq", "-e", "trace=preadv,preadv2", "-o", str(log), *command]
        subprocess.run(watched, check=True, capture_output=True, timeout=60)
    assert sha256(server.files() / "film") == sha256(film)
    hashed = sum(map(int, re.findall(r"preadv2?(?:\(| resumed).* = (\d+)$", log.read_text(), re.MULTILINE)))
    assert hashed == (size if edited else size - 2 * KEPT_BYTES)


def test_a_wrong_part_does_no_harm(tmp_path: Path) -> None:
    """What was remembered of the hash is another file's: the server refuses the whole, and the next try hashes anew."""
    other = begin(KEPT_BYTES)
    other.update(memoryview(bytearray(KEPT_BYTES)))
    server, film = Server(tmp_path), tmp_path / "film"
    film.write_bytes(os.urandom(KEPT_BYTES + BIG))
    state = tmp_path / "state.sqlite3"
    command = [str(BIN / "chunky"), "upload", str(film), "--to", server.url, "--state", str(state)]
    wait_until("its times count", lambda: time.time() - film.stat().st_ctime > 2.1, 5)
    with running(server):
        subprocess.run(command, env=os.environ | {VARIABLE: "upload.hash.kept"}, check=False, timeout=60)
        with contextlib.closing(sqlite3.connect(state)) as database, database:
            changed = database.execute("UPDATE sessions SET hash_part = ?", (other.part(),))
            assert changed.rowcount == 1
        refused = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert refused.returncode == 1 and "digest" in refused.stderr
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert sha256(server.files() / "film") == sha256(film)
