"""What leads to the server's checkpoints, and what must hold after it died there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import urllib.request
from pathlib import Path

from chunkyd.checkpoints import VARIABLE
from chunkyd.control.client import ControlClient
from tests.e2e.programs import BIN, run, tree, wait_until
from tests.faults.scenarios import at
from tests.faults.stage import FILE, Stage
from tests.server.process import Client, sha


@at(
    "storage.lock.taken storage.partial.making storage.partial.made storage.partial.allocated storage.partial.durable"
    " storage.attributes.set storage.attributes.synced storage.folder.made*3 storage.folder.synced*3"
    " storage.publish.renaming storage.publish.renamed storage.publish.synced catalog.file.made"
    " catalog.migration.committing catalog.committing*6 catalog.committed*6 server.session.recorded"
    " server.initiate.answering server.request.answered*6 server.chunk.writing*3 server.chunk.written*3"
    " server.chunk.syncing*3 server.chunk.synced*3 server.chunk.recorded*3 server.chunk.answering*3 server.end.recorded"
    " server.end.answering server.verdict.right server.publish.prepared server.publish.recorded server.publish.placed"
    " server.complete.recorded"
)
def one_file(folder: Path, arming: str) -> None:
    """A file of several chunks, in a folder of its own, on a server's first day."""
    with Stage(folder) as stage:
        stage.put("year/day/film.mov")
        stage.server_dies(arming, stage.daemon.begin)
        stage.start_daemon()
        stage.at_rest()


@at("storage.finish.synced server.complete.caught-up")
def renamed_before(folder: Path, arming: str) -> None:
    """A crash right after the rename; the next start finds the file at its target, and dies while it records that."""
    with Stage(folder) as stage:
        stage.put("film.mov")
        stage.server_dies("storage.publish.renamed", stage.daemon.begin, again=False)
        stage.server_dies(arming)
        stage.at_rest()


@at("storage.publish.rejoined")
def both_names(folder: Path, arming: str) -> None:
    """A power cut took the partials' side of the rename back: the published file stands in both places."""
    with Stage(folder) as stage:
        stage.put("film.mov")
        stage.server_dies("storage.publish.renamed", stage.daemon.begin, again=False)
        session_id = stage.sessions()[0][0]
        os.link(stage.server.files() / "outbox" / "film.mov", stage.server.data / "partial" / session_id)
        stage.server_dies(arming)
        stage.at_rest()


@at("storage.old.kept")
def newer_version(folder: Path, arming: str) -> None:
    """A newer version comes in place of one that is to be kept: both are there at the end, the old one once."""
    with Stage(folder) as stage:
        path = stage.put("film.mov", 70_000)
        old = tree(stage.box)[b"film.mov"]
        stage.arrive(stop="server")
        stage.put(path.name, 80_000)
        stage.server_dies(arming)
        stage.at_rest({**tree(stage.box), b"film.mov.~1~": old})


def file_becomes_folder(folder: Path, arming: str, existing: str) -> None:
    """A published file's place is needed for a folder."""
    with Stage(folder, server={"existing": existing}) as stage:
        path = stage.put("thing", 70_000)
        old = tree(stage.box)[b"thing"]
        stage.arrive(stop="server")
        path.unlink()
        stage.put("thing/within", 80_000)
        stage.server_dies(arming)
        stage.at_rest({**tree(stage.box), **({b"thing.~1~": old} if existing == "keep" else {})})


@at("storage.way.kept")
def file_becomes_folder_and_is_kept(folder: Path, arming: str) -> None:
    """It is kept beside the folder, under every crash once."""
    file_becomes_folder(folder, arming, "keep")


@at("storage.way.cleared storage.replaced.freeing storage.replaced.freed")
def file_becomes_folder_and_is_replaced(folder: Path, arming: str) -> None:
    """It gives way to what now follows, and leaves nothing behind."""
    file_becomes_folder(folder, arming, "replace")


@at("storage.way.emptied")
def empty_folder_in_the_way(folder: Path, arming: str) -> None:
    """An empty folder at the target is removed, and the file comes."""
    with Stage(folder) as stage:
        stage.put("thing", 70_000)
        (stage.server.files() / "outbox" / "thing").mkdir(parents=True)
        stage.server_dies(arming, stage.daemon.begin)
        stage.start_daemon()
        stage.at_rest()


@at("server.publish.taken-back")
def full_folder_in_the_way(folder: Path, arming: str) -> None:
    """A folder with content is never removed: the job fails, and once the folder is away `retry` lets it arrive."""
    with Stage(folder) as stage:
        stage.put("thing", 70_000)
        there = stage.server.files() / "outbox" / "thing"
        (there / "own").mkdir(parents=True)
        stage.server_dies(arming, stage.daemon.begin)
        stage.start_daemon()
        wait_until("the job has failed", lambda: [job[1] for job in stage.jobs()] == ["failed"], 30, stage.daemon.text)
        assert (there / "own").is_dir()
        shutil.rmtree(there)
        ControlClient(str(stage.daemon.socket)).retry()
        stage.at_rest()


@at("catalog.damaged.moving catalog.damaged.moved server.rebuild.recorded server.rebuild.done")
def damaged_catalog(folder: Path, arming: str) -> None:
    """The catalog is damaged: it is moved aside once, and the published files are recorded again."""
    with Stage(folder) as stage:
        stage.put("film.mov", 70_000)
        stage.arrive(stop="server")
        catalog = stage.server.data / "catalog.sqlite3"
        with catalog.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(8192))
        stage.server_dies(arming)
        stage.at_rest()
        wait_until("the file is recorded again", lambda: rows(stage, "file") == 1 and rows(stage, "rebuild") == 0)
        aside = [path.name for path in stage.server.data.glob("catalog.sqlite3.damaged-*")]
        assert len([name for name in aside if not name.endswith(("-wal", "-shm"))]) == 1, aside


@at("catalog.backup.synced catalog.backup.made")
def older_catalog(folder: Path, arming: str) -> None:
    """A catalog of an older version is copied whole before it is brought up to date."""
    with Stage(folder) as stage:
        stage.put("film.mov", 70_000)
        stage.arrive(stop="server")
        catalog = stage.server.data / "catalog.sqlite3"
        with contextlib.closing(sqlite3.connect(catalog)) as database:
            statements = "DROP TABLE rebuild; DROP TABLE wish; ALTER TABLE session DROP COLUMN file_version"
            database.executescript(f"{statements}; PRAGMA user_version = 1")
        stage.server_dies(arming)
        stage.at_rest()
        with contextlib.closing(sqlite3.connect(f"{catalog}.version-1")) as backup:
            assert backup.execute("SELECT count(*) FROM file").fetchone() == (1,)
        assert not list(stage.server.data.glob("*.new"))


def rows(stage: Stage, table: str) -> int:
    """How many rows the catalog has in a table."""
    with contextlib.closing(sqlite3.connect(f"file:{stage.server.data}/catalog.sqlite3?mode=ro", uri=True)) as catalog:
        return int(catalog.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@at("server.verdict.wrong server.verdict.recorded")
def wrong_bytes(folder: Path, arming: str) -> None:
    """The bytes are not those of the session's hash: nothing is published, and the session says so ever after."""
    with Stage(folder) as stage:
        client, sessions = Client(stage.server.port), []

        def send() -> None:
            sessions.append(client.initiate(b"these bytes", b"file", file_hash=sha(b"other bytes")))
            sessions[0].put(0, 11)

        stage.server_dies(arming, send)
        session = sessions[0]
        wait_until("the mismatch is said", lambda: session.status().problem == "digest-mismatch", 20, stage.server.text)
        wait_until("its space is free", lambda: not stage.partials(), 20, stage.server.text)
        assert session.end().json["result"] == "cancelled"
        stage.server_at_rest()
        assert tree(stage.server.files()) == {}


@at("server.hash.recorded server.hash.answering")
def late_hash(folder: Path, arming: str) -> None:
    """The hash of a session comes last: declared once more after the crash, it completes the file."""
    with Stage(folder) as stage:
        client, sessions = Client(stage.server.port), []

        def send() -> None:
            sessions.append(client.initiate(b"some bytes", b"file", file_version="v1." + "a" * 43))
            sessions[0].put(0, 10)
            sessions[0].declare()

        stage.server_dies(arming, send)
        session = sessions[0]
        assert session.declare(sha(b"other bytes")).problem == "invalid-file-hash"
        assert session.declare().status == 200
        wait_until("it is complete", lambda: session.status().json["status"] == "complete", 20, stage.server.text)
        assert session.end().json["result"] == "ended"
        stage.server_at_rest()
        assert (stage.server.files() / "file").read_bytes() == b"some bytes"


@at("storage.partial.discarding storage.partial.discarded server.expiry.recorded server.tombstone.removed")
def expired(folder: Path, arming: str) -> None:
    """A session's time runs out: with it go its bytes, and in the end its tombstone."""
    with Stage(folder, server={"limits": {"session_ttl": "1s", "reserve": "1MiB"}}) as stage:
        stage.server_dies(arming, lambda: Client(stage.server.port).initiate(b"some bytes").put(0, 4))
        stage.server_at_rest()
        wait_until("no tombstone is left", lambda: rows(stage, "session") == 0, 30, stage.server.text)
        assert tree(stage.server.files()) == {}


@at("server.foreign-end.seen")
def expired_by_the_administrator(folder: Path, arming: str) -> None:
    """A session that is expired by hand beside the running server loses its bytes, at the latest at the next start."""
    with Stage(folder) as stage:

        def expire() -> None:
            session = Client(stage.server.port).initiate(b"some bytes")
            session.put(0, 4)
            stage.server.command("sessions", "expire", session.id)

        stage.server_dies(arming, expire)
        assert stage.partials() == []
        stage.server_at_rest()


@at("server.session.forgotten")
def partial_taken_away(folder: Path, arming: str) -> None:
    """Somebody removed a partial while the server was down: its session is forgotten, its client begins again."""
    with Stage(folder) as stage:
        stage.put("film.mov")
        stage.server_dies("server.chunk.recorded", stage.daemon.begin, again=False)
        for name in stage.partials():
            (stage.server.data / "partial" / name).unlink()
        stage.to_send += FILE
        stage.server_dies(arming)
        stage.at_rest()


@at("server.publish.overtaken server.overtaken.recorded server.overtaken.kept")
def overtaken(folder: Path, arming: str) -> None:
    """Of two sessions on one path the later one's file stays, whichever is complete first; the other is kept once."""
    with Stage(folder) as stage:
        client, sessions = Client(stage.server.port), []

        def send() -> None:
            sessions.extend((client.initiate(b"the older", b"file"), client.initiate(b"the newer one", b"file")))
            sessions[1].put(0, 13)
            sessions[0].put(0, 9)

        stage.server_dies(arming, send)
        for session in sessions:
            wait_until("it is complete", lambda session=session: session.status().json.get("status") == "complete", 20)
            assert session.end().json["result"] == "ended"
        stage.server_at_rest()
        files = {path.name: path.read_bytes() for path in stage.server.files().iterdir()}
        assert files == {"file": b"the newer one", "file.~1~": b"the older"}


@at("server.renewal.recorded server.renewal.set")
def touched(folder: Path, arming: str) -> None:
    """Only a file's time changes: the published file gets it, and no byte travels.

    But where the time is set and not yet recorded: then the file is not the recorded one, and its bytes come again.
    """
    with Stage(folder) as stage:
        path = stage.put("film.mov", 70_000)
        stage.arrive(stop="server")
        said = stage.said_stored()
        os.utime(path, (1_700_000_000, 1_700_000_000))
        stage.server_dies(arming)
        stage.at_rest()
        assert stage.said_stored() == said or arming.startswith("server.renewal.set")


@at("server.copy.made server.copy.synced")
def known_version(folder: Path, arming: str) -> None:
    """A version that the user already has comes under another name: no byte travels, the new path has its own copy."""
    with Stage(folder) as stage:
        path = stage.put("film.mov")
        stage.arrive(stop="server")
        said = stage.said_stored()
        stage.put("again.mov", path.read_bytes())
        stage.server_dies(arming)
        stage.at_rest()
        assert stage.said_stored() == said
        assert (stage.server.files() / "outbox" / "again.mov").stat().st_nlink == 1


@at("server.copy.abandoning server.copy.abandoned")
def known_version_is_no_more(folder: Path, arming: str) -> None:
    """The kept version was changed by hand while it was copied: the new path gets the right bytes all the same."""
    with Stage(folder) as stage:
        path = stage.put("film.mov")
        stage.arrive(stop="server")
        stage.put("again.mov", path.read_bytes())
        stage.server_dies("server.copy.made", again=False)
        with (stage.server.files() / "outbox" / "film.mov").open("r+b") as file:
            file.write(b"changed by hand")
        stage.server_dies(arming)
        stage.at_rest({**tree(stage.box), b"film.mov": stage.published()[b"film.mov"]})


@at("storage.probe.written")
def asked_whether_ready(folder: Path, arming: str) -> None:
    """The readiness probe's file does not stay."""
    with Stage(folder) as stage:
        stage.server_dies(arming, lambda: urllib.request.urlopen(f"{stage.server.url}/readyz", timeout=10))
        stage.server_at_rest()


@at("server.status.answering")
def asked_for_the_status(folder: Path, arming: str) -> None:
    """A status request changes nothing."""
    with Stage(folder) as stage:
        sessions = []

        def ask() -> None:
            sessions.append(Client(stage.server.port).initiate(b"some bytes", b"file"))
            sessions[0].put(0, 4)
            sessions[0].status()

        stage.server_dies(arming, ask)
        session = sessions[0]
        assert session.status().json["missingRanges"] == [[4, 9]]
        session.put(4, 10)
        wait_until("it is complete", lambda: session.status().json["status"] == "complete", 20, stage.server.text)
        session.end()
        stage.server_at_rest()
        assert (stage.server.files() / "file").read_bytes() == b"some bytes"


@at("catalog.user.added catalog.token.added catalog.token.revoked catalog.user.removed")
def users_and_tokens(folder: Path, arming: str) -> None:
    """`user` and `token` cut short: what was recorded counts, the rest can be done again."""
    with Stage(folder, server={"auth": "tokens"}) as stage:
        command = ["chunky-server", "--config", str(stage.server.config)]
        armed = {**os.environ, VARIABLE: arming}
        tokens: list[str] = []
        for each in (["user", "add", "cam"], ["token", "revoke", "ID"], ["user", "remove", "cam"]):
            arguments = [tokens[-1] if word == "ID" else word for word in each]
            died = subprocess.run([str(BIN / command[0]), *command[1:], *arguments], env=armed, check=False, timeout=60)
            if died.returncode:
                assert died.returncode == -signal.SIGKILL
                break
            tokens = [each["id"] for each in json.loads(run(*command, "token", "list", "--json"))["tokens"]]
        else:
            raise AssertionError("nobody died")
        there = [user["name"] for user in json.loads(run(*command, "user", "list", "--json"))["users"]]
        assert there == ([] if "removed" in arming else ["cam"])
        left = json.loads(run(*command, "token", "list", "--json"))["tokens"]
        assert len(left) == (1 if "token.added" in arming else 0)
        if there:
            secret = run(*command, "token", "add", "--user", "cam").splitlines()[-1]
            stage.server.start()
            assert Client(stage.server.port, secret).initiate(b"some bytes").reply.status == 201
