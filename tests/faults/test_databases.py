"""The catalog and the job table are damaged, cut short, or locked: what has arrived stays, the rest arrives."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.programs import wait_until
from tests.faults.stage import FILE, Stage

Damage = Callable[[Path], object]


def cut(length: int) -> Damage:
    """Only the first bytes are left, and no log."""

    def damage(database: Path) -> None:
        for ending in ("-wal", "-shm"):
            database.with_name(database.name + ending).unlink(missing_ok=True)
        os.truncate(database, min(length, database.stat().st_size - 1))

    return damage


def noise(start: int, length: int, ending: str = "") -> Damage:
    """Other bytes at this place of the database, or of its log."""

    def damage(database: Path) -> None:
        with database.with_name(database.name + ending).open("r+b") as file:
            file.seek(start)
            file.write(os.urandom(length))

    return damage


def forget_log(database: Path) -> None:
    """The log's index is gone; SQLite makes it anew."""
    database.with_name(database.name + "-shm").unlink()


DAMAGES = {
    "cut to nothing": cut(0),
    "cut in its header": cut(50),
    "cut after a page": cut(4096),
    "cut in a page": cut(4096 * 3 + 100),
    "noise in its header": noise(0, 100),
    "noise in a page": noise(4096, 3000),
    "noise in its log": noise(40, 3000, "-wal"),
    "noise in its log's header": noise(0, 32, "-wal"),
    "its log's index gone": forget_log,
}


def database(stage: Stage, victim: str) -> Path:
    """The catalog, or the job table."""
    return stage.server.data / "catalog.sqlite3" if victim == "server" else stage.daemon.state / "jobs.sqlite3"


@pytest.mark.parametrize("victim", ["server", "daemon"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_database_that_is_damaged(tmp_path: Path, victim: str, damage: str) -> None:
    """Killed, its database damaged, started again: it comes up by itself, and old and new files are there, whole."""
    with Stage(tmp_path) as stage:
        stage.put("old")
        stage.arrive()
        before = stage.published()[b"old"]
        program = stage.server if victim == "server" else stage.daemon
        program.kill()
        DAMAGES[damage](database(stage, victim))
        program.start()
        stage.put("new")
        stage.put("small", 1000)
        stage.at_rest()
        assert stage.published()[b"old"] == before
        assert "Traceback" not in stage.server.text() + stage.daemon.text()


@pytest.mark.parametrize("seconds", [8, pytest.param(45, marks=pytest.mark.long)])  # SQLite itself waits for 30
@pytest.mark.parametrize("victim", ["server", "daemon"])
def test_a_database_that_another_program_has_locked(tmp_path: Path, victim: str, seconds: int) -> None:
    """While somebody holds its lock nothing can be recorded, and nothing is lost; then it goes on by itself."""
    with Stage(tmp_path) as stage:
        stage.put("old")
        stage.arrive()
        other = sqlite3.connect(database(stage, victim), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        stage.put("new")
        stage.put("small", 1000)
        with pytest.raises(AssertionError, match="not within"):
            stage.at_rest(seconds=seconds)
        if seconds > 30:
            program = stage.server if victim == "server" else stage.daemon
            assert "locked" in program.text()
        other.execute("ROLLBACK")
        other.close()
        stage.at_rest()
        assert "Traceback" not in stage.server.text() + stage.daemon.text()


def test_noise_while_an_upload_is_under_way(tmp_path: Path) -> None:
    """The catalog and its log are lost with the session in them: its client begins another, and the file arrives."""
    with Stage(tmp_path) as stage:
        stage.put("film.mov")
        stage.start_server()
        stage.daemon_dies("upload.chunk.stored:3", again=False)
        stage.server.kill()
        for ending in ("", "-wal"):
            noise(0, 20_000, ending)(database(stage, "server"))
        stage.to_send += FILE
        stage.start_server()
        assert "was damaged" in stage.server.text()
        stage.daemon.start()
        stage.at_rest()


def test_list_after_a_crash(tmp_path: Path) -> None:
    """`chunkyctl list` shows what a killed daemon has recorded, and changes neither its table nor the log of it."""
    with Stage(tmp_path) as stage:
        stage.daemon.start()
        for name in ("one", "two"):
            stage.put(name, 1000)
        wait_until("both are queued", lambda: len(stage.jobs()) == 2, 30, stage.daemon.text)
        stage.daemon.kill()
        table = database(stage, "daemon")
        files = (table, table.with_name(table.name + "-wal"))
        before = [file.read_bytes() for file in files]
        assert {job["path"] for job in stage.daemon.jobs()} == {"one", "two"}
        assert [file.read_bytes() for file in files] == before
