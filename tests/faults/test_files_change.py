"""A file that changes at exactly the wrong moment: in every phase of its upload, in every way, under the real programs.

Whatever is done to it, the server never shows bytes that are no version that existed, ends with the newest one, and
what is done after an upload is never done to a version that has not arrived.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.programs import sha256, wait_until
from tests.faults.stage import FILE, MIB, Stage

NOBODY = 65534
NEW = 7 * MIB + 99


def grow(path: Path) -> None:
    """Some more bytes at its end."""
    with path.open("ab") as file:
        file.write(os.urandom(MIB))


def shrink(path: Path) -> None:
    """Half of it goes."""
    os.truncate(path, FILE // 2 if path.exists() else path.write_bytes(b"anew"))


def edit_unseen(path: Path) -> None:
    """Other bytes in the middle; size and mtime are then what they were."""
    before = path.stat() if path.exists() else None
    with path.open("r+b" if before else "wb") as file:
        file.seek(3 * MIB)
        file.write(os.urandom(1000))
    if before:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_unseen(path: Path) -> None:
    """Another file of the same size and mtime is renamed over it."""
    beside = path.parent.parent / "other"
    beside.write_bytes(os.urandom(FILE))
    os.chown(beside, NOBODY, NOBODY)
    if path.exists():
        before = path.stat()
        os.utime(beside, ns=(before.st_atime_ns, before.st_mtime_ns))
    beside.rename(path)


def delete(path: Path) -> None:
    """It is gone."""
    path.unlink(missing_ok=True)


def make_anew(path: Path) -> None:
    """It is gone, and another has its name."""
    delete(path)
    path.write_bytes(os.urandom(NEW))


Change = Callable[[Path], None]
CHANGES: list[Change] = [grow, shrink, edit_unseen, replace_unseen, delete, make_anew]
PHASES = [
    "jobs.offered",
    "jobs.claimed",
    "upload.hash.taken",
    "upload.session.opened",
    "upload.chunk.sending",
    "upload.chunk.stored:2",
    "upload.chunk.stored:6",  # the last one
    "server.verdict.right",
    "upload.complete.heard",
    "upload.complete.recorded",
    "upload.end.recorded",
    "daemon.after.hiding",
    "daemon.after.hidden",
    "daemon.delete.deciding",
    "daemon.delete.synced",
]


# Between the last comparison and the rename, only a lease keeps an edit away that also sets the old time again.
ONLY_WITH_LEASES: list[tuple[str, Change]] = [("daemon.after.hiding", edit_unseen)]


def lease_is_breaking(path: Path) -> bool:
    """Whether somebody waits for a lease on this file to be given up (/proc/locks)."""
    inode = f":{path.stat().st_ino} "
    return any("LEASE  BREAKING" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def without_leases(stage: Stage) -> None:
    """The daemon may have no leases, as on a network file system: nothing makes a writer wait for it."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("taking a capability away needs root and setpriv")
    stage.daemon._command = ["setpriv", "--bounding-set", "-lease", *stage.daemon._command]


def cases() -> list[object]:
    """Every phase with every change; `make test` has every second phase once, `make files` all."""
    found = []
    for row, phase in enumerate(PHASES):
        for column, change in enumerate(CHANGES):
            short = row % 2 == 0 and column == row // 2 % len(CHANGES)
            marks = () if short else (pytest.mark.long,)
            found.append(pytest.param(phase, change, id=f"{phase}-{change.__name__}", marks=marks))
    return found


@pytest.mark.parametrize(("phase", "change"), cases())
def test_changed_in_every_phase(tmp_path: Path, phase: str, change: Change) -> None:
    """All that is published are versions that existed, the newest is there in the end, and only then was it deleted."""
    with Stage(tmp_path, box={"after_upload": "delete"}) as stage:
        leased = (phase, change) in ONLY_WITH_LEASES
        if not leased:
            without_leases(stage)
        path = stage.put("film.mov")
        os.chown(path, NOBODY, NOBODY)
        versions = [sha256(path)]
        program = stage.server if phase.startswith("server.") else stage.daemon
        program.arm(f"{phase}=stop")
        stage.start_server()
        stage.daemon.begin()
        program.wait_stopped()
        writer = threading.Thread(target=change, args=(path,))
        writer.start()
        if not leased:
            writer.join(20)
        else:
            wait_until("the writer waits for the lease", lambda: lease_is_breaking(path), 20)
            program.go_on()
            writer.join(20)
        versions.append(sha256(path) if path.exists() else versions[-1])
        program.go_on()
        stage.daemon.wait_ready()
        settle(stage)
        published = [sha256(found) for found in stage.server.files().rglob("*") if found.is_file()]
        assert set(published) <= set(versions)
        newest = stage.server.files() / "outbox" / "film.mov"
        if change is not delete:
            assert sha256(newest) == versions[-1]
        assert stage.leftovers() == []


def settle(stage: Stage) -> None:
    """Until all that is in the box has arrived and was deleted, and no job and no session is left."""

    def about() -> str:
        return f"{os.listdir(stage.box)} {stage.jobs()}\n{stage.daemon.text()[-3000:]}"

    wait_until("the box is empty", lambda: not os.listdir(stage.box), 40, about)
    wait_until("no job is left", lambda: not stage.jobs(), 40, about)
    stage.server_at_rest()


def test_a_writer_waits_for_no_more_than_a_moment(tmp_path: Path) -> None:
    """Who opens a file for writing while it is sent gets it at once; what is sent in the end is what it wrote."""
    with Stage(tmp_path, daemon={"uploads": {"chunk_size": "1MiB", "bandwidth": "2MiB/s"}}) as stage:
        path = stage.put("film.mov")
        stage.start_server()
        stage.daemon.arm("upload.chunk.stored=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        writer = threading.Thread(target=grow, args=(path,))
        writer.start()
        stage.daemon.go_on()
        writer.join(20)  # the kernel itself would let it wait for 45 s
        assert not writer.is_alive()
        stage.to_send += FILE + MIB
        stage.daemon.wait_ready()
        stage.daemon.settings["uploads"]["bandwidth"] = "unlimited"
        stage.daemon.write_config()
        stage.daemon.ctl("reload")
        stage.at_rest(states=("done", "superseded"))


@pytest.mark.parametrize("policy", ["delete", "move"])
@pytest.mark.parametrize("replaced", [True, False])
def test_hidden_by_a_job_that_is_lost(tmp_path: Path, replaced: bool, policy: str) -> None:
    """The daemon dies while a file is hidden, and its job table is lost: the file has its name again, and is sent."""
    aside = tmp_path / "aside" if policy == "move" else None
    after = {"move": str(aside)} if aside else "delete"
    with Stage(tmp_path, box={"after_upload": after, "rescan": "1s"}) as stage:
        stage.start_server()
        path = stage.put("film.mov", 70_000)
        content = path.read_bytes()
        stage.daemon.arm("daemon.after.hiding=stop,daemon.after.hidden")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        if replaced:
            content = stage.put("film.mov", 80_000).read_bytes()
        stage.daemon.go_on()
        stage.daemon.wait_killed()
        for table in stage.daemon.state.glob("jobs.sqlite3*"):
            table.unlink()
        stage.daemon.arm(None)
        stage.daemon.start()
        wait_until("nothing is left behind", lambda: not list(stage.box.iterdir()), 30, stage.daemon.text)
        arrived = {path.read_bytes() for path in (stage.server.files() / "outbox").iterdir()}
        assert content in arrived
        assert not aside or content in {path.read_bytes() for path in aside.iterdir()}


@pytest.mark.parametrize("policy", ["delete", "move"])
def test_open_for_writing_after_it_has_arrived(tmp_path: Path, policy: str) -> None:
    """Somebody has it open and writes nothing: it is looked at again, and deleted or moved once it is closed."""
    aside = tmp_path / "aside" if policy == "move" else None
    after = {"move": str(aside)} if aside else "delete"
    with Stage(tmp_path, box={"after_upload": after, "settle": "50ms"}) as stage:
        stage.start_server()
        path = stage.put("film.mov", 70_000)
        with path.open("r+b"):
            stage.daemon.start()
            wait_until("it has arrived", lambda: bool(stage.published()), 30, stage.daemon.text)
            wait_until("it is said", lambda: "open for writing" in str(stage.jobs()), 30, stage.daemon.text)
            assert path.exists()
        wait_until("no job is left", lambda: not stage.jobs(), 30, stage.daemon.text)
        assert not path.exists()
        assert not aside or (aside / "film.mov").stat().st_size == 70_000


def test_opened_for_writing_while_it_is_hidden(tmp_path: Path) -> None:
    """Somebody opens it once it is hidden, and writes nothing: its own name again, and deleted once it is closed."""
    with Stage(tmp_path, box={"after_upload": "delete", "settle": "50ms"}) as stage:
        stage.start_server()
        path = stage.put("film.mov", 70_000)
        stage.daemon.arm("daemon.after.hidden=stop")
        stage.daemon.start()
        stage.daemon.wait_stopped(60)
        (hidden,) = path.parent.iterdir()
        opened: list[int] = []
        opener = threading.Thread(target=lambda: opened.append(os.open(hidden, os.O_RDWR)), daemon=True)
        opener.start()
        wait_until("it asks for the lease", lambda: _is_asked_back(hidden), 10)
        stage.daemon.go_on()
        wait_until("it is said", lambda: "open for writing" in str(stage.jobs()), 30, stage.daemon.text)
        opener.join(60)
        assert path.exists()
        os.close(opened[0])
        wait_until("no job is left", lambda: not stage.jobs(), 60, stage.daemon.text)
        assert not path.exists()
        assert [job["state"] for job in stage.daemon.ctl("history")["jobs"]] == ["done"]


def _is_asked_back(path: Path) -> bool:
    """Whether the lease on this file is awaited by somebody who opens it."""
    inode = f":{path.stat().st_ino} "
    return any("BREAK" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())
