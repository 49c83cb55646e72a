"""Links put where folders were: nothing outside the watched folder is ever read, sent or deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.programs import sha256, wait_until
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
