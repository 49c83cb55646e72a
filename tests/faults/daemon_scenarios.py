"""What leads to the checkpoints of the daemon and of the client library, and what must hold after they died there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from chunkyd.checkpoints import VARIABLE
from chunkyd.control.base import Selection
from chunkyd.control.client import ControlClient
from chunkyd.protocol.problems import problem, to_document
from tests.e2e.programs import Program, sha256, tree, wait_until
from tests.faults.scenarios import at
from tests.faults.stage import FILE, Stage
from tests.upload.faultproxy import Answer, FaultProxy


@at(
    "files.folder.made files.folder.synced files.atomic.synced files.atomic.renamed files.atomic.durable"
    " daemon.lock.taken daemon.home.seen jobs.file.made jobs.migration.committing jobs.migration.committed"
    " jobs.committing*8 jobs.committed*8 jobs.recovered jobs.offered jobs.claimed jobs.session.remembered"
    " jobs.progressed jobs.arrival.recorded jobs.done jobs.session.ended upload.hash.taken upload.session.opening"
    " upload.session.opened upload.session.remembered upload.chunk.sending*3 upload.chunk.stored*3"
    " upload.complete.heard upload.complete.recorded upload.end.answered upload.end.recorded daemon.after.done"
)
def one_file(folder: Path, arming: str) -> None:
    """A file of several chunks, on a daemon's first day."""
    with Stage(folder) as stage:
        stage.put("year/day/film.mov")
        stage.start_server()
        stage.daemon_dies(arming)
        stage.at_rest()


@at("jobs.group.claimed jobs.group.arriving jobs.group.arrived")
def small_files(folder: Path, arming: str) -> None:
    """Small files that go together, and are deleted afterwards: all arrive, none twice, and none is deleted before."""
    with Stage(folder, box={"after_upload": "delete"}) as stage:
        files, most_head = 60, 300
        for number in range(files):
            stage.put(f"f{number % 4}/file{number}", 100 * number + 1)
        expected = tree(stage.box)
        stage.start_server()
        stage.daemon_dies(arming)
        wait_until("the folder is empty", lambda: not tree(stage.box), 60, stage.daemon.text)
        stage.at_rest(expected)
        assert stage.sent_together() <= stage.to_send + 3 * files * most_head  # their heads alone may come again


@at("jobs.hashed")
def old_enough_for_its_hash_to_serve_again(folder: Path, arming: str) -> None:
    """A file that was left alone for a while is not hashed again after the crash."""
    with Stage(folder, box={"settle": "2300ms"}) as stage:
        stage.put("film.mov")
        stage.start_server()
        stage.daemon_dies(arming, again=False)
        stage.daemon.arm("upload.hash.taken")  # who took another hash would die of it
        stage.daemon.start()
        stage.at_rest()


def slow(stage: Stage) -> None:
    """An upload that takes a second, so that it has a middle."""
    stage.daemon.settings["uploads"]["bandwidth"] = "4MiB/s"
    stage.daemon.write_config()


@at("jobs.resumed")
def in_the_middle(folder: Path, arming: str) -> None:
    """A second crash, while a session is being taken up again."""
    with Stage(folder) as stage:
        slow(stage)
        stage.put("film.mov")
        stage.start_server()
        stage.daemon_dies("upload.chunk.stored:2", again=False)
        stage.daemon_dies(arming)
        stage.at_rest()


@at("daemon.ending.answered")
def session_left_to_be_ended(folder: Path, arming: str) -> None:
    """A session that a crash left behind is ended by the next run, and by the one after it."""
    with Stage(folder) as stage:
        stage.put("film.mov")
        stage.start_server()
        stage.daemon_dies("upload.complete.recorded", again=False)
        stage.daemon_dies(arming)
        stage.at_rest()


# After the upload


@at("daemon.after.hiding daemon.after.hidden daemon.delete.deciding daemon.delete.deleted daemon.delete.synced")
def deleted_afterwards(folder: Path, arming: str) -> None:
    """What was sent is deleted; a new file that stands in its place by then is sent before it is."""
    with Stage(folder, box={"after_upload": "delete"}) as stage:
        expected = sent_twice(stage, arming)
        stage.at_rest(expected)
        assert tree(stage.box) == {}


@at("daemon.move.deciding daemon.move.moved daemon.move.named daemon.move.synced")
def moved_afterwards(folder: Path, arming: str) -> None:
    """What was sent is moved; a new file that stands in its place by then is sent before it is."""
    target = folder / "sent"
    with Stage(folder, box={"after_upload": {"move": str(target)}}) as stage:
        stage.moved_to.append(target)
        expected = sent_twice(stage, arming)
        stage.at_rest(expected)
        assert tree(stage.box) == {}
        assert contents(tree(target)) == contents(expected)


@at("daemon.copy.written daemon.copy.synced daemon.copy.named daemon.copy.durable daemon.copy.removed")
def moved_to_another_file_system(folder: Path, arming: str) -> None:
    """A move between file systems copies first; the copy is there once, beside an older file of its name."""
    with elsewhere(folder) as target, Stage(folder, box={"after_upload": {"move": str(target)}}) as stage:
        stage.moved_to.append(target)
        (target / "film.mov").write_bytes(b"of another day")
        expected = sent_twice(stage, arming)
        stage.at_rest(expected)
        assert tree(stage.box) == {}
        older = sha256(target / "film.mov")
        assert contents(tree(target)) == sorted([older, *contents(expected)])
        assert (target / "film.mov").read_bytes() == b"of another day"


@contextmanager
def elsewhere(folder: Path) -> Iterator[Path]:
    """A folder on another file system than this one."""
    for place in ("/dev/shm", "/run", "/var/tmp", "/tmp"):
        if os.path.isdir(place) and os.access(place, os.W_OK) and os.stat(place).st_dev != folder.stat().st_dev:
            found = Path(tempfile.mkdtemp(dir=place))
            break
    else:
        raise AssertionError("no second file system to write to, not even /dev/shm")
    try:
        yield found
    finally:
        shutil.rmtree(found)


def contents(found: dict[bytes, tuple[str, int, int]]) -> list[str]:
    """The hashes, whatever the names."""
    return sorted(entry[0] for entry in found.values())


def sent_twice(stage: Stage, arming: str) -> dict[bytes, tuple[str, int, int]]:
    """The daemon dies while it does what is to be done after an upload; where the source's name is free by then another
    file takes it. What the server must have in the end: both."""
    path = stage.put("film.mov", 70_000)
    first = tree(stage.box)[b"film.mov"]
    stage.start_server()
    stage.daemon_dies(arming, again=False)
    expected = {b"film.mov": first}
    if not path.exists():
        stage.put("film.mov", 80_000)
        expected = {b"film.mov": tree(stage.box)[b"film.mov"], b"film.mov.~1~": first}
    stage.daemon.start()
    wait_until("the folder is empty", lambda: not tree(stage.box), 30, stage.daemon.text)
    return expected


@at("daemon.after.put-back")
def replaced_at_the_last_moment(folder: Path, arming: str) -> None:
    """Another file takes the source's name between the look and the rename: it gets its name back, and is sent."""
    with Stage(folder, box={"after_upload": "delete"}) as stage:
        stage.put("film.mov", 70_000)
        first = tree(stage.box)[b"film.mov"]
        second = []

        def replace() -> None:
            stage.daemon.wait_stopped()
            stage.put("film.mov", 80_000)
            second.append(tree(stage.box)[b"film.mov"])
            stage.daemon.go_on()

        stage.start_server()
        stage.daemon_dies(f"daemon.after.hiding=stop,{arming}", replace)
        wait_until("the folder is empty", lambda: not tree(stage.box), 30, stage.daemon.text)
        stage.at_rest({b"film.mov": second[0], b"film.mov.~1~": first})


# What keeps a job from arriving


@at("jobs.released")
def stopped_in_the_middle(folder: Path, arming: str) -> None:
    """A crash while a clean stop puts the running job back into the queue: it is taken up all the same."""
    with Stage(folder) as stage:
        slow(stage)
        stage.put("film.mov")

        def stop() -> None:
            stage.daemon.wait_stopped()
            os.kill(stage.daemon.pid, signal.SIGTERM)
            stage.daemon.go_on()

        stage.start_server()
        stage.daemon_dies(f"upload.chunk.sending:2=stop,{arming}", stop)
        stage.at_rest()


@at("jobs.lifted")
def the_server_comes_back(folder: Path, arming: str) -> None:
    """A crash just when the hold of the whole queue ends."""
    with Stage(folder) as stage:
        stage.put("film.mov", 70_000)

        def come_back() -> None:
            control = ControlClient(str(stage.daemon.socket))
            wait_until("the queue is held", lambda: control.status().state == "offline", 30, stage.daemon.text)
            stage.start_server()

        stage.daemon_dies(arming, come_back)
        stage.at_rest()


@at("jobs.destination.recorded")
def another_server(folder: Path, arming: str) -> None:
    """A crash just when another server is recorded, of which nothing was scanned or sent yet: it is sent everything."""
    with Stage(folder) as stage:
        stage.put("film.mov")
        stage.arrive(stop="daemon")
        stage.another_server()
        stage.daemon_dies(arming)
        stage.at_rest()


@at("jobs.waiting")
def the_server_is_in_trouble(folder: Path, arming: str) -> None:
    """The server answers, but not as it should: the job waits, and arrives when that is over."""
    trouble = Answer(500, to_document(problem("internal", "")), (("Content-Type", "application/problem+json"),))
    stage = Stage(folder)
    with stage, FaultProxy(stage.server.port) as proxy:
        stage.daemon.settings["server"]["url"] = proxy.url
        stage.daemon.write_config()
        proxy.plan = lambda seen: trouble if seen.path == "/initiateUploadSession" else None
        stage.put("film.mov", 70_000)
        stage.start_server()
        stage.daemon_dies(arming, again=False)
        proxy.plan = lambda seen: None
        stage.daemon.start()
        stage.at_rest()


@at("jobs.paused")
def the_server_is_full(folder: Path, arming: str) -> None:
    """The server has no room: the job is paused, and arrives when room was made."""
    with Stage(folder, server={"limits": {"reserve": "1000TiB"}}) as stage:
        stage.put("film.mov", 70_000)
        stage.start_server()
        stage.daemon_dies(arming)
        stage.server.stop()
        stage.server.settings["limits"] = {"reserve": "1MiB"}
        stage.server.write_config()
        stage.start_server()
        stage.at_rest()


@at("jobs.failed")
def the_server_refuses(folder: Path, arming: str) -> None:
    """A folder at the server stands where the file should go: the job fails, and `retry` lets it arrive."""
    with Stage(folder) as stage:
        stage.put("thing", 70_000)
        there = stage.server.files() / "outbox" / "thing"
        (there / "own").mkdir(parents=True)
        stage.start_server()
        stage.daemon_dies(arming)
        wait_until("the job has failed", lambda: [job[1] for job in stage.jobs()] == ["failed"], 30, stage.daemon.text)
        shutil.rmtree(there)
        ControlClient(str(stage.daemon.socket)).retry()
        stage.at_rest()


@at("jobs.restarted")
def a_bit_has_turned(folder: Path, arming: str) -> None:
    """The server's disk returns other bytes than were written: noticed before the file is complete, and sent anew."""
    with Stage(folder) as stage:
        half_sent(stage)
        stage.server.kill()
        (name,) = stage.partials()
        with (stage.server.data / "partial" / name).open("r+b") as file:
            file.seek(min(start for _, start, _ in stage.said_stored()))
            file.write(b"other bytes than before")
        stage.to_send += FILE
        stage.start_server()
        stage.daemon_dies(arming)
        stage.at_rest()


@at("upload.session.lost jobs.session.given-up")
def the_session_is_lost(folder: Path, arming: str) -> None:
    """The server has lost a session's partial: the client begins another one by itself."""
    with Stage(folder) as stage:
        half_sent(stage)
        stage.server.kill()
        (name,) = stage.partials()
        (stage.server.data / "partial" / name).unlink()
        stage.to_send += FILE
        stage.start_server()
        stage.daemon_dies(arming)
        stage.at_rest()


def half_sent(stage: Stage) -> None:
    """The daemon has died in the middle of a file."""
    stage.put("film.mov")
    stage.start_server()
    stage.daemon_dies("upload.chunk.stored:3", again=False)


# Changes of the source


def changed_while_sending(folder: Path, arming: str, change: Callable[[Path], None], states: tuple[str, ...]) -> None:
    """Something happens to the file while its first chunk is about to be sent."""
    with Stage(folder) as stage:
        path = stage.put("film.mov")

        def act() -> None:
            stage.daemon.wait_stopped()
            change(path)
            stage.daemon.go_on()

        stage.start_server()
        stage.daemon_dies(f"upload.chunk.sending=stop,{arming}", act)
        stage.at_rest(states=states)


@at("jobs.superseded")
def touched_while_sending(folder: Path, arming: str) -> None:
    """The file has another time than the one that is being sent: a newer version takes over."""
    changed_while_sending(folder, arming, lambda path: os.utime(path, (1_700_000_000,) * 2), ("superseded", "done"))


@at("jobs.source-gone.found")
def deleted_while_sending(folder: Path, arming: str) -> None:
    """The file is deleted while it is being sent: the job is cancelled, and its session ended."""
    changed_while_sending(folder, arming, Path.unlink, ("cancelled",))


@at("jobs.source-gone.noticed")
def deleted_while_paused(folder: Path, arming: str) -> None:
    """The file of a paused job is deleted while the daemon is down: the job is cancelled at the next start."""
    with Stage(folder) as stage:
        paused_job(stage).unlink()
        stage.daemon_dies(arming)
        stage.at_rest({}, states=("cancelled",))


@at("jobs.root.back")
def the_folder_comes_back(folder: Path, arming: str) -> None:
    """A folder that was not there comes back: what is in it arrives."""
    with Stage(folder) as stage:
        stage.put("film.mov", 70_000)
        away = folder / "away"
        stage.box.rename(away)

        def come_back() -> None:
            control = ControlClient(str(stage.daemon.socket))
            wait_until("the folder is missed", lambda: control.status().folders[0].state == "missing", 30)
            away.rename(stage.box)

        stage.start_server()
        stage.daemon_dies(arming, come_back)
        stage.at_rest()


# The user's wishes


def paused_job(stage: Stage) -> Path:
    """A job that waits under a general pause; the daemon is not running any more."""
    stage.start_server()
    stage.daemon.start()
    ControlClient(str(stage.daemon.socket)).pause(Selection())
    path = stage.put("film.mov", 70_000)
    wait_until("the job is there", stage.jobs, 30, stage.daemon.text)
    stage.daemon.stop()
    return path


@at("jobs.pause.recorded")
def pausing(folder: Path, arming: str) -> None:
    """A pause counts from its commit on: what comes later waits for `resume`."""
    with Stage(folder) as stage:
        control = ControlClient(str(stage.daemon.socket))
        stage.start_server()
        stage.daemon_dies(arming, lambda: control.pause(Selection()))
        stage.put("film.mov", 70_000)
        wait_until("the job waits", lambda: [job[1:3] for job in stage.jobs()] == [("paused", "user")], 30)
        control.resume(Selection())
        stage.at_rest()


@at("jobs.resume.recorded")
def resuming(folder: Path, arming: str) -> None:
    """The end of a pause counts from its commit on."""
    with Stage(folder) as stage:
        paused_job(stage)
        stage.daemon_dies(arming, lambda: ControlClient(str(stage.daemon.socket)).resume(Selection()))
        stage.at_rest()


@at("jobs.wish.recorded")
def cancelling(folder: Path, arming: str) -> None:
    """A job that was cancelled stays so."""
    with Stage(folder) as stage:
        paused_job(stage)
        control = ControlClient(str(stage.daemon.socket))
        stage.daemon_dies(arming, lambda: control.cancel((control.jobs().jobs[0].id,)))
        control.resume(Selection())
        stage.at_rest({}, states=("cancelled",))


# The job table's file


@at("jobs.damaged.moving jobs.damaged.moved")
def damaged_table(folder: Path, arming: str) -> None:
    """The job table is damaged: it is moved aside once, a scan finds everything again, and no byte is sent again."""
    with Stage(folder) as stage:
        stage.put("film.mov", 70_000)
        stage.arrive(stop="daemon")
        said = stage.said_stored()
        table = stage.daemon.state / "jobs.sqlite3"
        with table.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(8192))
        stage.daemon_dies(arming)
        wait_until("it is known again", lambda: ControlClient(str(stage.daemon.socket)).history().jobs, 30)
        stage.at_rest()
        assert stage.said_stored() == said
        aside = [path.name for path in stage.daemon.state.glob("jobs.sqlite3.broken-*")]
        assert len([name for name in aside if not name.endswith(("-wal", "-shm"))]) == 1, aside


@at("jobs.backup.written jobs.backup.made")
def older_table(folder: Path, arming: str) -> None:
    """A table of an older version is copied whole before it is brought up to date. No such version was released yet:
    two of the test's own are opened by a program of its own."""
    program = """if True:
        import os, sys, sqlite3
        from chunkyd import checkpoints
        from chunkyd.clock import SystemClock
        from chunkyd.jobs.opening import open_tables
        checkpoints.arm(os.environ)
        versions = (("CREATE TABLE first (x)", "INSERT INTO first VALUES (1)"), ("CREATE TABLE second (x)",))
        tables = open_tables("jobs.sqlite3", SystemClock(), versions[: int(sys.argv[1])]).tables
        print(tables.rows("SELECT count(*) FROM " + ("first", "second")[int(sys.argv[1]) - 1]), flush=True)
        tables.close()
    """

    def opened(version: int, armed: str | None = None) -> int:
        env = {**os.environ, **({VARIABLE: armed} if armed else {})}
        command = [sys.executable, "-c", program, str(version)]
        return subprocess.run(command, env=env, cwd=folder, timeout=60, check=False, capture_output=True).returncode

    assert opened(1) == 0
    assert opened(2, arming) == -signal.SIGKILL
    assert opened(2) == 0
    assert sorted(path.name for path in folder.glob("jobs.sqlite3.*")) == ["jobs.sqlite3.before-2"]
    assert (folder / "jobs.sqlite3.before-2").stat().st_mode & 0o777 == 0o600


# The library's own memory


def chunky(stage: Stage, path: Path) -> Program:
    """`chunky upload` of this file, with a memory of its own."""
    options = ["--state", str(stage.folder / "memory.sqlite3"), "--chunk-size", "1MiB", "--parallel", "2"]
    return Program(stage.folder, "chunky", "chunky", "upload", str(path), "--to", stage.server.url, *options)


def finishes(stage: Stage, program: Program, path: Path) -> None:
    """The same command again goes on, and leaves nothing behind."""
    program.begin()
    assert program.process is not None
    assert program.process.wait(60) == 0, program.text()
    stage.server_at_rest()
    assert sha256(stage.server.files() / path.name) == sha256(path)
    stage.check_little_was_sent_twice()


def dies(stage: Stage, program: Program, arming: str) -> None:
    """It is killed at the checkpoint."""
    program.arm(arming)
    program.begin()
    program.wait_killed()
    stage.note_death(program, arming)


@at("upload.memory.opened upload.memory.committing*4 upload.memory.committed*4")
def by_hand(folder: Path, arming: str) -> None:
    """`chunky upload` dies, and the same command again goes on where it was."""
    with Stage(folder) as stage:
        path = stage.put("film.mov", FILE)
        program = chunky(stage, path)
        stage.start_server()
        dies(stage, program, arming)
        finishes(stage, program, path)


@at("upload.version.superseded")
def edited_between(folder: Path, arming: str) -> None:
    """The file is edited between two commands: the older version's session is ended, whatever dies."""
    with Stage(folder) as stage:
        path = stage.put("film.mov", FILE)
        program = chunky(stage, path)
        stage.start_server()
        dies(stage, program, "upload.chunk.stored:2")
        with path.open("r+b") as file:
            file.write(b"edited")
        stage.to_send += FILE
        dies(stage, program, arming)
        finishes(stage, program, path)
