"""What only a database can do to a catalog: full disks, damage, other processes, old and new schemas, many rows."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chunkyd.catalog.base import Catalog, SessionState, StoredRange, TokenRecord, Wish
from chunkyd.catalog.database import CatalogDatabase
from chunkyd.catalog.opening import migrate, move_aside
from chunkyd.catalog.schema import MIGRATIONS
from chunkyd.catalog.sql import SqlCatalog
from chunkyd.checkpoints import VARIABLE
from chunkyd.errors import StateError, StorageFull
from chunkyd.protocol.paths import Target
from chunkyd.protocol.ranges import RangeSet
from tests.catalog.helpers import HASH, file, session
from tests.e2e.programs import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite3"


def opening(path: Path) -> list[str]:
    """A process that opens the catalog, dying or stopping where its environment says, and prints the users."""
    code = "import os, sys; from chunkyd.checkpoints import arm; from chunkyd.catalog.sql import SqlCatalog;"
    return [sys.executable, "-c", f"{code} arm(os.environ); print(SqlCatalog(sys.argv[1]).users())", str(path)]


@pytest.mark.parametrize("step", ["begin", "rollback"])
def test_a_lack_of_memory_leaves_no_transaction_open(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Where one cannot be rolled back, or has begun though its caller never heard of it: nobody is locked out."""
    with contextlib.closing(SqlCatalog(str(path))) as catalog:
        database = CatalogDatabase(str(path))
        done = getattr(database._database, step)

        def lacking() -> None:
            if step == "begin":
                done()
            raise MemoryError

        with monkeypatch.context() as patched:
            patched.setattr(database._database, step, lacking)
            with pytest.raises(MemoryError), database.writing():
                raise ValueError("the transaction fails")
        with contextlib.closing(sqlite3.connect(path, timeout=0.1)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        with database.writing():
            assert database.rows("SELECT name FROM user") == []
        database.close()
        catalog.add_user("ann", 1.0)


def use_everything(catalog: Catalog) -> None:
    """Call every method of the contract once at least."""
    catalog.add_user("ann", 1.0)
    catalog.add_token(TokenRecord("t1", "ann", b"d" * 32, 1.0))
    catalog.add_session(session("one", idempotency=b"k"))
    catalog.add_session(session("two"))
    catalog.record_stored([StoredRange("one", 0, 10, 600.0), StoredRange("one", 5, 30, 600.0)])
    catalog.record_stored([StoredRange("one", 20, 40, 600.0)])
    catalog.stored("one")
    catalog.session("one")
    list(catalog.sessions())
    list(catalog.sessions(user="ann"))
    catalog.due(600.0, 10)
    catalog.move("one", [SessionState.RECEIVING], SessionState.PUBLISHING, inode=1)
    catalog.complete("one", file())
    catalog.expire("two", 900.0)
    catalog.end("two")
    catalog.forget("two")
    catalog.add_sessions([session("three")], wishes=[Wish(b"w", 1)], key=b"g", until=600.0)
    catalog.complete_all([("three", file(b"b/y"))])
    catalog.purge_wishes(900.0, 10)
    catalog.file(Target("ann", b"a/x"))
    catalog.versions("ann", HASH, 1000)
    catalog.known_hashes("ann", [HASH, "0" * 64])
    catalog.newest_sequence_in_the_way(Target("ann", b"a/x"))
    list(catalog.files())
    list(catalog.files("ann"))
    catalog.usage("ann")
    catalog.remove_file(Target("ann", b"a/x"))
    catalog.users()
    catalog.tokens()
    catalog.tokens("ann")
    catalog.token_user(b"d" * 32)
    catalog.revoke_token("t1")
    catalog.remove_user("ann")
    catalog.probe()


class TestPlans:
    """No question looks at every row."""

    def test_every_statement_uses_an_index(self, sql: SqlCatalog, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Every statement of the catalog finds its rows by an index and sorts nothing; the exceptions are named."""
        with caplog.at_level(logging.DEBUG, logger="peewee"):
            use_everything(sql)
        statements = {record.msg[0]: record.msg[1] for record in caplog.records if record.name == "peewee"}
        asked = {text: given for text, given in statements.items() if text.startswith(("SELECT", "UPDATE", "DELETE"))}
        assert len(asked) > 20
        given_rows = ("CONSTANT ROW", "CONSTANT ROWS", "SCAN wanted")  # what is asked for stands in the question
        small = ("FROM user ", "FROM token ORDER", "UPDATE probe")  # a handful of rows, all of them wanted
        with contextlib.closing(sqlite3.connect(path)) as connection:
            for statement, given in asked.items():
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", given)]
                slow = [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step]
                slow = [step for step in slow if not step.endswith(given_rows)]
                assert not slow or any(part in statement for part in small), (statement, plan)

    def test_usage_reads_its_index_alone(self, sql: SqlCatalog, path: Path) -> None:
        """The sum over a user's unfinished sessions touches no other session and no table row."""
        with contextlib.closing(sqlite3.connect(path)) as connection:
            statement = (
                "EXPLAIN QUERY PLAN SELECT total_bytes FROM session WHERE user = 'ann'"
                " AND state IN ('receiving', 'copying', 'publishing')"
            )
            assert "COVERING INDEX session_active" in connection.execute(statement).fetchone()[3]


class TestStatements:
    """What is recorded of many files together."""

    def test_two_for_each_of_many(self, sql: SqlCatalog) -> None:
        """A session comes and a file comes; the rest is asked for, and goes, a hundred together and more."""
        seen: list[str] = []
        connection: sqlite3.Connection = sql._database._database.connection()
        connection.set_trace_callback(seen.append)
        names = [f"s{number}" for number in range(500)]
        added = sql.add_sessions([session(name) for name in names], key=b"k", until=600.0)
        assert sql.known_hashes("ann", [HASH]) == set()
        sql.complete_all([(each.session_id, file(b"a/%s" % each.session_id.encode())) for each in added])
        connection.set_trace_callback(None)
        assert 2 * len(names) <= len(seen) <= 2 * len(names) + 40


class TestOthers:
    """Other threads, other processes."""

    def test_readers_do_not_wait(self, sql: SqlCatalog) -> None:
        """While one thread is in the middle of a change, another reads what was there before."""
        sql.add_session(session())
        database = sql._database
        found: list[object] = []
        with database.writing():
            database.change("UPDATE session SET user = 'changed'")
            reader = threading.Thread(target=lambda: found.append(sql.session("one")))
            reader.start()
            reader.join(10)
        assert found == [session(sequence=1)]

    def test_a_writer_waits_for_another_process(self, sql: SqlCatalog, path: Path) -> None:
        """A command that adds a user beside a busy server waits for its turn and succeeds."""
        with contextlib.closing(SqlCatalog(str(path))) as other:
            holding = threading.Event()
            release = threading.Event()

            def hold() -> None:
                with other._database.writing():
                    holding.set()
                    release.wait(10)

            holder = threading.Thread(target=hold)
            holder.start()
            holding.wait(10)
            writer = threading.Thread(target=lambda: sql.add_user("ann", 1.0))
            writer.start()
            release.set()
            writer.join(10)
            holder.join(10)
            assert other.users() == ["ann"]

    def test_many_processes_open_at_once(self, path: Path) -> None:
        """Processes that find no catalog and make one at the same moment all end with the same one."""
        code = (
            "import sys; from chunkyd.catalog.sql import SqlCatalog;"
            "c = SqlCatalog(sys.argv[1]); c.add_user(sys.argv[2], 1.0); c.close()"
        )
        running = [subprocess.Popen([sys.executable, "-c", code, str(path), f"user{number}"]) for number in range(4)]
        assert [process.wait(60) for process in running] == [0] * 4
        with contextlib.closing(SqlCatalog(str(path))) as catalog:
            assert catalog.users() == [f"user{number}" for number in range(4)]

    def test_a_new_one_is_whole_with_its_first_commit(self, path: Path) -> None:
        """There is no moment at which another process could take a catalog that is being made for an older one."""
        armed = {**os.environ, VARIABLE: "catalog.committed"}
        assert subprocess.run(opening(path), env=armed, timeout=60, check=False).returncode == -signal.SIGKILL
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        with contextlib.closing(SqlCatalog(str(path))) as catalog:
            use_everything(catalog)
        assert os.listdir(path.parent) == [path.name]

    @pytest.mark.parametrize("held", ["catalog.backup.synced", "catalog.backup.made", "catalog.migration.committing"])
    def test_many_processes_migrate_at_once(self, path: Path, held: str) -> None:
        """Where one process is at its migration, the others wait for it and find it done; there is one whole backup."""
        with contextlib.closing(SqlCatalog(str(path))) as catalog:
            catalog.add_user("ann", 1.0)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript("ALTER TABLE session DROP COLUMN file_version; PRAGMA user_version = 3")
        first = subprocess.Popen(opening(path), env={**os.environ, VARIABLE: f"{held}=stop"})
        held_now = os.WSTOPPED | os.WNOWAIT | os.WNOHANG
        wait_until("the first is held", lambda: os.waitid(os.P_PID, first.pid, held_now))
        others = [subprocess.Popen(opening(path), stdout=subprocess.PIPE, text=True) for _ in range(3)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            others[0].wait(1)
        assert [process.poll() for process in others] == [None] * 3
        first.send_signal(signal.SIGCONT)
        assert [process.wait(60) for process in (first, *others)] == [0] * 4
        assert [process.communicate()[0] for process in others] == ["['ann']\n"] * 3
        with contextlib.closing(sqlite3.connect(f"{path}.version-3")) as backup:
            assert backup.execute("SELECT name FROM user").fetchall() == [("ann",)]
        assert {name.removeprefix(path.name) for name in os.listdir(path.parent)} <= {"", ".version-3", "-wal", "-shm"}

    def test_killed_after_a_commit(self, path: Path) -> None:
        """What a method had returned from is there after a kill; what it was in the middle of is whole or absent."""
        code = (
            "import sys; from chunkyd.catalog.sql import SqlCatalog; from chunkyd.catalog.base import StoredRange\n"
            "from tests.catalog.helpers import session\n"
            "c = SqlCatalog(sys.argv[1]); c.add_session(session(total_bytes=10**9))\n"
            "for n in range(10**6):\n"
            "    c.record_stored([StoredRange('one', 3 * n, 3 * n + 2, 600.0 + n)]); print(n, flush=True)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        last = -1
        for line in process.stdout:
            last = int(line)
            if last == 50:
                process.send_signal(signal.SIGKILL)
        process.wait()
        with contextlib.closing(SqlCatalog(str(path))) as catalog:
            stored = catalog.stored("one")
            found = catalog.session("one")
        assert stored == [(3 * n, 3 * n + 2) for n in range(len(stored))]
        assert len(stored) in (last + 1, last + 2)
        assert found is not None
        assert found.expires_at == 600.0 + len(stored) - 1

    def test_a_closed_catalog(self, path: Path) -> None:
        """Close reaches the connections of all threads, leaves one file, and a late call is a StateError."""
        catalog = SqlCatalog(str(path))
        worker = threading.Thread(target=lambda: catalog.add_user("ann", 1.0))
        worker.start()
        worker.join()
        catalog.close()
        catalog.close()
        assert os.listdir(path.parent) == [path.name]

    def test_nobody_else_reads_it(self, sql: SqlCatalog, path: Path) -> None:
        """The catalog, its log and its shared memory are for the owner's eyes: digests of tokens are in them."""
        sql.add_user("ann", 1.0)
        modes = {name: (path.parent / name).stat().st_mode & 0o777 for name in os.listdir(path.parent)}
        assert len(modes) == 3
        assert set(modes.values()) == {0o600}


class TestFull:
    """A full disk."""

    @pytest.fixture
    def mount(self, tmp_path: Path) -> Iterator[Path]:
        folder = tmp_path / "small"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
        made = subprocess.run(command, check=False, capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip(f"a small tmpfs cannot be mounted here: {made.stderr.strip()}")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)

    def test_full_and_room_again(self, mount: Path) -> None:
        """Without room every change is StorageFull and changes nothing, reading goes on, and room heals it."""
        with contextlib.closing(SqlCatalog(str(mount / "catalog.sqlite3"))) as catalog:
            first = catalog.add_session(session("first"))
            catalog.record_stored([StoredRange("first", 0, 10, 600.0)])
            (mount / "filler").write_bytes(bytes(_room(mount)))
            done = 0
            with pytest.raises(StorageFull):
                for number in range(5000):
                    catalog.add_session(session(f"s{number}", target=b"x" * 4000))
                    done += 1
            for change in (
                lambda: catalog.record_stored([StoredRange("first", n, n + 1, 900.0) for n in range(20, 9999, 2)]),
                lambda: catalog.complete("first", file(b"y" * 4000)),
            ):
                with pytest.raises(StorageFull):
                    for _ in range(5000):
                        change()
                        catalog.add_session(session(f"more{_}", target=b"x" * 4000))
            os.truncate(mount / "filler", 0)
            catalog.probe()
            catalog.add_session(session("after"))
            found = {record.session_id for record in catalog.sessions()}
            assert {f"s{number}" for number in range(done)} < found
            assert f"s{done}" not in found
            still = catalog.session("first")
            assert still is not None
            assert still.sequence == first.sequence
            with contextlib.closing(sqlite3.connect(mount / "catalog.sqlite3")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_no_room_to_open(self, mount: Path) -> None:
        """A catalog that cannot even be made says that there is no room, and can be made when there is."""
        (mount / "filler").write_bytes(bytes(_room(mount)))
        with pytest.raises(StorageFull):
            SqlCatalog(str(mount / "catalog.sqlite3"))
        os.truncate(mount / "filler", 0)
        with contextlib.closing(SqlCatalog(str(mount / "catalog.sqlite3"))) as catalog:
            use_everything(catalog)


def _room(mount: Path) -> int:
    found = os.statvfs(mount)
    return found.f_bavail * found.f_frsize


class TestDamage:
    """Files that are no catalog any more."""

    def fill(self, path: Path) -> None:
        with contextlib.closing(SqlCatalog(str(path))) as catalog:
            catalog.add_user("ann", 1.0)
            catalog.add_token(TokenRecord("t1", "ann", b"d" * 32, 1.0))
            for number in range(500):
                catalog.put_file(file(b"%d" % number * 50))

    def spoil(self, path: Path) -> None:
        """Overwrite the pages of the table of files."""
        with contextlib.closing(sqlite3.connect(path)) as connection:
            size = connection.execute("PRAGMA page_size").fetchone()[0]
            (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'file'").fetchone()
        with open(path, "r+b") as raw:
            raw.seek((root - 1) * size)
            raw.write(b"\xa5" * size)

    def test_beside_a_server(self, path: Path) -> None:
        """A command meets damage as a StateError, and leaves the file where the server has it open."""
        self.fill(path)
        self.spoil(path)
        before = path.read_bytes()
        with contextlib.closing(SqlCatalog(str(path))) as catalog, pytest.raises(StateError, match="damaged"):
            list(catalog.files())
        assert path.read_bytes() == before
        path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
        with pytest.raises(StateError, match="damaged"):
            SqlCatalog(str(path))
        assert os.listdir(path.parent) == [path.name]

    def test_the_owner_begins_anew(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The owner moves a damaged catalog aside, says so, saves users and tokens, and begins with no file known."""
        self.fill(path)
        self.spoil(path)
        damaged = path.read_bytes()
        with contextlib.closing(SqlCatalog(str(path), owner=True)) as catalog:
            assert catalog.lost is not None
            assert Path(catalog.lost).read_bytes() == damaged
            assert catalog.token_user(b"d" * 32) == "ann"
            assert list(catalog.files()) == []
            catalog.remove_user("ann")
            use_everything(catalog)
        assert catalog.lost in caplog.text
        with contextlib.closing(SqlCatalog(str(path), owner=True)) as again:
            assert again.lost is None

    def test_a_crash_after_moving_it_aside(self, path: Path) -> None:
        """The next start finds no catalog, but what was saved of the damaged one all the same, and knows no files."""
        self.fill(path)
        with contextlib.closing(SqlCatalog(str(path), owner=True)) as catalog:
            catalog.set_files_known()
        self.spoil(path)
        move_aside(str(path))
        with contextlib.closing(SqlCatalog(str(path), owner=True)) as catalog:
            assert catalog.token_user(b"d" * 32) == "ann"
            assert not catalog.knows_files()

    @pytest.mark.parametrize("content", [b"not a database at all" * 1000, b"\0" * 8192, b"SQLite format 3\0" * 300])
    def test_garbage(self, path: Path, content: bytes) -> None:
        """Whatever the file holds, the owner comes up with an empty catalog and keeps the garbage for inspection."""
        path.write_bytes(content)
        with contextlib.closing(SqlCatalog(str(path), owner=True)) as catalog:
            assert catalog.lost is not None
            assert Path(catalog.lost).read_bytes() == content
            use_everything(catalog)

    def test_a_sound_one_is_left_alone(self, path: Path) -> None:
        """An owner that finds nothing wrong moves nothing aside, not even after a kill left a log behind."""
        self.fill(path)
        with contextlib.closing(SqlCatalog(str(path), owner=True)) as catalog:
            assert catalog.lost is None
            assert len(list(catalog.files())) == 500


class TestSchema:
    """Older and newer programs."""

    def test_a_newer_one_is_refused(self, path: Path) -> None:
        """A catalog of a newer program is refused with both versions named, by owner and by others, and untouched."""
        SqlCatalog(str(path)).close()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")
        for owner in (True, False):
            with pytest.raises(StateError, match="version 99; this program knows 4"):
                SqlCatalog(str(path), owner=owner)
        assert os.listdir(path.parent) == [path.name]

    def test_an_older_one_is_migrated(self, path: Path) -> None:
        """A migration keeps what was there, and a backup of the old state is beside it first."""
        with contextlib.closing(SqlCatalog(str(path))) as catalog:
            catalog.add_user("ann", 1.0)
        newer = (*MIGRATIONS, ("ALTER TABLE user ADD COLUMN note TEXT", "UPDATE user SET note = 'moved'"))
        database = CatalogDatabase(str(path))
        migrate(database, newer)
        migrate(database, newer)
        assert database.rows("SELECT name, note FROM user") == [("ann", "moved")]
        database.close()
        backup = path.with_name(f"{path.name}.version-{len(MIGRATIONS)}")
        with contextlib.closing(SqlCatalog(str(backup))) as old:
            assert old.users() == ["ann"]

    def test_a_session_of_an_older_one_goes_on(self, path: Path) -> None:
        """A session that began before hashes could be late is what it was; a late one can begin beside it."""
        with contextlib.closing(SqlCatalog(str(path))) as catalog:
            before = catalog.add_session(session(idempotency=b"k", inode=2**64 - 1))
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript("ALTER TABLE session DROP COLUMN file_version; PRAGMA user_version = 3")
        with contextlib.closing(SqlCatalog(str(path))) as catalog:
            assert catalog.session("one") == before
            late = catalog.add_session(session("two", file_hash="", file_version="v1.x"))
            assert catalog.session("two") == late
        with contextlib.closing(sqlite3.connect(f"{path}.version-3")) as backup:
            assert backup.execute("SELECT session_id FROM session").fetchall() == [("one",)]

    def test_a_failed_migration_changes_nothing(self, path: Path) -> None:
        """A migration is one transaction: when its last statement fails, its first has not happened."""
        SqlCatalog(str(path)).close()
        database = CatalogDatabase(str(path))
        with pytest.raises(StateError):
            migrate(database, (*MIGRATIONS, ("ALTER TABLE user ADD COLUMN note TEXT", "no SQL at all")))
        assert database.rows("PRAGMA user_version") == [(len(MIGRATIONS),)]
        database.close()
        with contextlib.closing(SqlCatalog(str(path))) as catalog:
            use_everything(catalog)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), min_size=1, max_size=4), min_size=1, max_size=12
    )
)
def test_ranges_merge_as_a_set_does(sql: SqlCatalog, batches: list[list[tuple[int, int]]]) -> None:
    """Whatever batches are recorded, in whatever order, the ranges are those of the set of their bytes."""
    sql.end("one")
    sql.add_session(session())
    expected = RangeSet()
    for batch in batches:
        sql.record_stored([StoredRange("one", start, start + length, 600.0) for start, length in batch])
        for start, length in batch:
            expected.add(start, start + length)
        assert sql.stored("one") == list(expected)
