"""Databases as an older program left them: the programs of today migrate them, and go on where that one was."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from chunkyd.catalog.schema import MIGRATIONS as CATALOG
from chunkyd.jobs.migrations import MIGRATIONS as JOBS
from chunkyd.upload.sqlite_memory import MIGRATIONS as MEMORY
from tests.e2e.programs import Program, Server, running, sha256, wait_until
from tests.faults.stage import CHUNK, PARALLEL, Stage
from tests.upload.faultproxy import FaultProxy

MIB = 1 << 20
OLDER = [
    pytest.param(name, migrations, version, marks=() if version == len(migrations) - 1 else pytest.mark.long)
    for name, migrations in (("catalog.sqlite3", CATALOG), ("jobs.sqlite3", JOBS))
    for version in range(1, len(migrations))
]


def _named(value: object) -> str:
    return str(value) if isinstance(value, str | int) else ""


def make_older(path: Path, migrations: Sequence[Sequence[str]], version: int) -> None:
    """Rewrite a database in the schema it had at `version`, with all that this schema can say.

    A migration that was released is never changed, so the first ones are the schema of that time.
    """
    older = path.with_suffix(".older")
    with contextlib.closing(sqlite3.connect(older, isolation_level=None)) as database:
        for statement in (each for statements in migrations[:version] for each in statements):
            database.execute(statement)
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")  # what they would count is copied, too
        database.execute("ATTACH ? AS newer", (str(path),))
        tables = database.execute("SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
        for (table,) in tables:
            columns = ", ".join(_columns(database, "main", table) & _columns(database, "newer", table))
            database.execute(f"DELETE FROM main.{table}")
            database.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")
        database.execute("DETACH newer")
        for _, statement in triggers:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {version}")
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    older.rename(path)


def _columns(database: sqlite3.Connection, schema: str, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA {schema}.table_info({table})")}


def _version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize(("name", "migrations", "version"), OLDER, ids=_named)
def test_an_upload_under_way(tmp_path: Path, name: str, migrations: Sequence[Sequence[str]], version: int) -> None:
    """A file sent, one half sent, one paused, when the programs were replaced: nothing is sent again, all arrive."""
    with Stage(tmp_path) as stage:
        stage.put("sent")
        stage.arrive(stop="server")
        stage.put("paused", 1000)
        wait_until("it is queued", stage.jobs, 30, stage.daemon.text)
        (job,) = stage.daemon.ctl("list")["jobs"]
        stage.daemon.ctl("pause", str(job["id"]))
        stage.daemon.stop()
        stage.start_server()
        stage.put("half")
        stage.daemon_dies("upload.chunk.stored:3", again=False)
        stage.server.stop()
        path = (stage.server.data if name.startswith("catalog") else stage.daemon.state) / name
        make_older(path, migrations, version)
        stage.start_server()
        stage.start_daemon()
        assert _version(path) == len(migrations)
        copies = [copy for copy in path.parent.glob(f"{name}.*-[0-9]") if _version(copy) == version]
        assert len(copies) == 1, "the older one is kept beside it"
        wait_until(
            "half arrives", lambda: [job[:2] for job in stage.jobs()] == [("paused", "paused")], 30, stage.daemon.text
        )
        stage.daemon.ctl("resume")
        stage.at_rest()


@pytest.mark.parametrize("version", range(1, len(MEMORY)))
def test_a_memory_of_sessions(tmp_path: Path, version: int) -> None:
    """`chunky upload`, killed on the way and replaced, resumes with what the older one remembered."""
    server, file, memory = Server(tmp_path), tmp_path / "file", tmp_path / "memory.sqlite3"
    file.write_bytes(os.urandom(6 * MIB))
    with running(server), FaultProxy(server.port) as proxy:
        arguments = ("--state", str(memory), "--to", proxy.url, "--chunk-size", "1MiB", "--parallel", str(PARALLEL))
        chunky = Program(tmp_path, "chunky", "chunky", "upload", str(file), *arguments)
        chunky.arm("upload.chunk.stored:3")
        chunky.begin()
        chunky.wait_killed()
        make_older(memory, MEMORY, version)
        chunky.arm(None)
        chunky.begin()
        wait_until("it ends", lambda: not chunky.running(), 30, chunky.text)
        assert chunky.process is not None
        assert chunky.process.returncode == 0, chunky.text()
        assert sha256(server.files() / "file") == sha256(file)
        assert proxy.count("/initiateUploadSession") == 1
        assert proxy.body_bytes <= 6 * MIB + PARALLEL * CHUNK
        assert _version(memory) == len(MEMORY)
