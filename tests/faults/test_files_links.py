"""Links put where folders were: nothing outside the watched folder is ever read, sent or deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.programs import sha256, tree, wait_until
from tests.faults.stage import FILE, Stage

SECRET = b"not in the watched folder, and never to be sent"


@pytest.mark.parametrize("target", ["secret", "aside"])  # another folder; the very one that was there
@pytest.mark.parametrize(
    ("phase", "size"),
    [
        ("jobs.offered", FILE),
        ("jobs.claimed", len(SECRET)),
        ("upload.hash.taken", FILE),
        ("daemon.after.hiding", FILE),
    ],
)
def test_a_link_in_place_of_a_folder(tmp_path: Path, phase: str, size: int, target: str) -> None:
    """A folder that becomes a link out of the root while its file is queued or sent is not followed, then or later."""
    secret = tmp_path / "secret"
    (secret / "deep").mkdir(parents=True)
    (secret / "deep" / "film.mov").write_bytes(SECRET)
    with Stage(tmp_path, box={"after_upload": "delete", "settle": "100ms"}) as stage:
        path = stage.put("day/deep/film.mov", size)
        content = sha256(path)
        stage.start_server()
        stage.daemon.arm(f"{phase}=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        (stage.box / "day").rename(tmp_path / "aside")
        (stage.box / "day").symlink_to(tmp_path / target)
        stage.daemon.go_on()
        stage.daemon.wait_ready()
        rescanned(stage)
        wait_until(
            "nothing more is tried", lambda: not stage.jobs(), 30, lambda: f"{stage.jobs()}{stage.daemon.text()}"
        )
        stage.daemon.arm(None)
        stage.daemon.stop()
        stage.daemon.start()
        rescanned(stage)
        assert (secret / "deep" / "film.mov").read_bytes() == SECRET
        kept = tmp_path / "aside" / "deep" / "film.mov"  # gone only where its folder was open already, to delete it
        assert phase == "daemon.after.hiding" or sha256(kept) == content
        assert {sha256(found) for found in stage.server.files().rglob("*") if found.is_file()} <= {content}
        (stage.box / "day").unlink()
        (tmp_path / "aside").rename(stage.box / "day")
        there = stage.server.files() / "outbox" / "day" / "deep" / "film.mov"
        wait_until("the file arrives", there.exists, 30, stage.daemon.text)
        wait_until("no job is left", lambda: not stage.jobs(), 30, stage.daemon.text)
        assert sha256(there) == content
        assert stage.leftovers() == []


def rescanned(stage: Stage) -> None:
    """A whole scan, to its end."""
    stage.daemon.ctl("rescan", "--wait")


def test_another_name_is_given_to_a_file_while_it_is_sent(tmp_path: Path) -> None:
    """A hard link changes the file's change time, and no event tells of that: it arrives without any further scan."""
    with Stage(tmp_path, box={"settle": "1s"}) as stage:
        path = stage.put("film.mov")
        stage.daemon.arm("upload.chunk.stored:2=stop")
        stage.start_server()
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        os.link(path, tmp_path / "snapshot")
        stage.daemon.go_on()
        wait_until("it arrives", lambda: stage.published() == tree(stage.box), 30, stage.daemon.text)


def test_names_of_one_file_that_are_deleted_after_the_upload(tmp_path: Path) -> None:
    """Deleting one name changes the others' change time, and no event tells of that: they go all the same."""
    with Stage(tmp_path, box={"after_upload": "delete"}) as stage:
        path = stage.put("a/film.mov", 70_000)
        (stage.box / "b").mkdir()
        os.link(path, stage.box / "b" / "film.mov")
        sent = tree(stage.box)
        stage.start_server()
        stage.daemon.start()
        wait_until("all names are gone", lambda: not tree(stage.box), 30, stage.daemon.text)
        assert {name: found[0] for name, found in stage.published().items()} == {
            name: found[0] for name, found in sent.items()
        }


def test_a_folder_replaced_and_back_again(tmp_path: Path) -> None:
    """A newer version is published, and before that is recorded the one that was sent before stands there again."""
    with Stage(tmp_path, server={"existing": "replace"}) as stage:
        stage.put("now/film.mov", b"the first version")
        stage.arrive(stop="daemon")
        (stage.box / "now").rename(tmp_path / "first")
        stage.put("now/film.mov")
        stage.daemon.arm("upload.complete.heard=stop")
        stage.daemon.begin()
        stage.daemon.wait_stopped()
        (stage.box / "now").rename(tmp_path / "second")
        stage.daemon.go_on()
        stage.daemon.wait_ready()
        wait_until("it is missed", lambda: not stage.jobs(), 30, stage.daemon.text)
        (tmp_path / "first").rename(stage.box / "now")
        wait_until("what is there arrives", lambda: stage.published() == tree(stage.box), 30, stage.daemon.text)
