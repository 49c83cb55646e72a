"""`server.url` is changed: all that is in the watched folders arrives at the new server, whatever is under way then."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkyd.control.client import ControlClient
from tests.e2e.programs import run, tree, wait_until
from tests.faults.stage import MIB, Stage

HEAD = 400  # bytes of a batch that ask whether the bytes of one file are needed
SIZES = {"a/small": 100_000, "a/smaller": 50_000, "b": 90_000, "medium": 3 * MIB, "once": 9 * MIB}


def put_all(stage: Stage) -> None:
    """Small files, which go together; one that goes by itself; and one that is big enough to be read once."""
    for name, size in SIZES.items():
        stage.put(name, size)


def done(stage: Stage) -> int:
    """How many jobs of the daemon have ended."""
    return len(stage.daemon.ctl("history")["jobs"])


def said(stage: Stage) -> int:
    """How often the daemon has said that it sends to another server."""
    return stage.daemon.text().count("all files in the watched folders are offered again")


@pytest.mark.parametrize("by", ["restart", "reload"])
def test_another_server_and_back(tmp_path: Path, by: str) -> None:
    """All that was sent is sent to the new server too; back at the first no byte of it is; a restart asks nothing."""
    with Stage(tmp_path) as stage:

        def take_up() -> None:
            if by == "reload":
                stage.daemon.ctl("reload")
            else:
                stage.daemon.stop()
                stage.daemon.start()

        put_all(stage)
        stage.arrive()
        assert said(stage) == 0
        first = stage.another_server()
        take_up()
        stage.at_rest()
        assert said(stage) == 1
        stage.send_to(first)
        before = stage.received()
        take_up()
        wait_until("all are known again", lambda: done(stage) == 3 * len(SIZES), 30, stage.daemon.text)
        stage.at_rest()
        assert stage.received() - before <= HEAD * len(SIZES)
        assert said(stage) == 2
        stage.daemon.stop()
        stage.daemon.start()
        stage.daemon.ctl("rescan", "--wait")
        assert (done(stage), said(stage)) == (3 * len(SIZES), 2)


def test_the_same_server_by_another_name(tmp_path: Path) -> None:
    """Each file costs a question and no byte, also where no hash is remembered, because each is to be taken anew."""
    with Stage(tmp_path, daemon={"uploads": {"verify": "always"}}) as stage:
        put_all(stage)
        stage.arrive(stop="daemon")
        before = stage.received()
        stage.daemon.settings["server"]["url"] = stage.server.url.replace("127.0.0.1", "localhost") + "/"
        stage.daemon.write_config()
        stage.daemon.start()
        wait_until("all are known again", lambda: done(stage) == 2 * len(SIZES), 30, stage.daemon.text)
        stage.at_rest()
        assert stage.received() - before <= HEAD * len(SIZES)


def test_once(tmp_path: Path) -> None:
    """A single pass sends all to the new server, and another one nothing more."""
    with Stage(tmp_path) as stage:
        put_all(stage)
        stage.arrive(stop="daemon")
        stage.another_server()
        for _ in range(2):
            run("chunkyd", "--config", str(stage.daemon.config), "once")
            assert stage.published() == tree(stage.box)
            assert stage.received() <= stage.to_send + 2 * HEAD * len(SIZES)


def test_a_reload_while_files_are_under_way(tmp_path: Path) -> None:
    """One half sent, some sent, some waiting: all arrive at the new server; the half one is not sent to its end."""
    with Stage(tmp_path) as stage:
        put_all(stage)
        stage.arrive()
        stage.daemon.settings["uploads"]["bandwidth"] = "4MiB/s"
        stage.daemon.write_config()
        stage.daemon.ctl("reload")
        stage.put("half", 40 * MIB)
        wait_until("some of it is there", lambda: len(stage.sessions()) == 1, 30, stage.daemon.text)
        for number in range(30):
            stage.put(f"waiting/{number}", 10_000 + number)
        del stage.daemon.settings["uploads"]["bandwidth"]
        first = stage.another_server()
        stage.daemon.ctl("reload")
        stage.at_rest()
        assert not (first.files() / "outbox" / "half").exists()


@pytest.mark.parametrize(
    ("by", "died"),
    [
        ("restart", "jobs.committing"),  # the first of a start is the change
        ("restart", "jobs.destination.recorded"),
        ("restart", "jobs.offered"),
        ("reload", "jobs.destination.recorded"),
        ("reload", "jobs.offered"),
    ],
)
def test_killed_around_the_change(tmp_path: Path, by: str, died: str) -> None:
    """The daemon dies before the change is recorded, after it, or when files are offered: the next start goes on."""
    with Stage(tmp_path) as stage:
        put_all(stage)
        stage.arrive(stop="daemon")

        def reload() -> None:
            stage.another_server()
            ControlClient(str(stage.daemon.socket)).reload()

        if by == "reload":
            stage.daemon_dies(died, reload)
        else:
            stage.another_server()
            stage.daemon_dies(died)
        stage.at_rest()
        if died == "jobs.committing":
            assert said(stage) == 1  # nothing of it was recorded


@pytest.mark.parametrize("died", ["upload.complete.heard", "jobs.arrival.recorded", "daemon.after.done", "jobs.done"])
def test_killed_around_an_arrival_at_the_old_one(tmp_path: Path, died: str) -> None:
    """The daemon dies while it records that a file has arrived at the old server: the new one gets it all the same."""
    with Stage(tmp_path) as stage:
        stage.put("film.mov")
        stage.start_server()
        stage.daemon_dies(died, again=False)
        stage.another_server()
        stage.start_daemon()
        stage.at_rest()


@pytest.mark.parametrize("died", ["jobs.group.arriving", "jobs.group.arrived", "daemon.after.done", "jobs.done"])
def test_killed_around_an_arrival_of_small_files(tmp_path: Path, died: str) -> None:
    """The same for files that went together, and have no session."""
    with Stage(tmp_path) as stage:
        for number in range(20):
            stage.put(f"file{number}", 1000 + number)
        stage.start_server()
        stage.daemon_dies(died, again=False)
        stage.another_server()
        stage.start_daemon()
        stage.at_rest()


def test_what_was_refused_there_is_taken_here(tmp_path: Path) -> None:
    """A job that failed because of the old server needs no `retry` at the new one."""
    with Stage(tmp_path) as stage:
        stage.put("thing", 70_000)
        (stage.server.files() / "outbox" / "thing" / "own").mkdir(parents=True)
        stage.start_server()
        stage.start_daemon()
        wait_until("the job has failed", lambda: [job[1] for job in stage.jobs()] == ["failed"], 30, stage.daemon.text)
        stage.another_server()
        stage.daemon.ctl("reload")
        stage.at_rest()


def test_what_was_deleted_after_its_upload_is_gone(tmp_path: Path) -> None:
    """It has arrived at the old server, as the user would have it; what is found later arrives at the new one."""
    with Stage(tmp_path, box={"after_upload": "delete"}) as stage:
        stage.put("film.mov")
        old = tree(stage.box)
        stage.start_server()
        stage.daemon_dies("jobs.arrival.recorded", again=False)
        first = stage.another_server()
        stage.start_daemon()
        wait_until("it is deleted", lambda: not tree(stage.box), 30, stage.daemon.text)
        assert tree(first.files() / "outbox") == old
        stage.put("film.mov", 70_000)
        new = tree(stage.box)
        stage.at_rest(new)
        assert tree(stage.box) == {}


def test_back_and_forth(tmp_path: Path) -> None:
    """Reloads from one server to the other and back while files come: the last one has them all."""
    with Stage(tmp_path) as stage:
        stage.start_server()
        stage.start_daemon()
        first = stage.another_server()
        servers = [stage.server, first]
        for turn in range(7):
            if turn:
                stage.send_to(servers[turn % 2])
            stage.daemon.ctl("reload")
            for number in range(60):
                stage.put(f"{turn}/{number}", 2000 + number)
            stage.put(f"{turn}/big", 2 * MIB)
            here = stage.server.files() / "outbox" / str(turn)
            wait_until("some arrive", lambda here=here: here.exists() and len(list(here.iterdir())) > 5, 30)
        stage.kills = 7  # as much may be under way at a reload
        stage.at_rest()
        assert said(stage) == 7
        assert "Traceback" not in stage.daemon.text()
