"""What leads to the checkpoints of files that are read once, and what must hold after a death there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from chunkyd.upload.late import LATE_BYTES
from chunkyd.upload.run import KEPT_BYTES
from tests.e2e.programs import wait_until
from tests.faults.scenarios import at
from tests.faults.stage import Stage

BIG = LATE_BYTES + 1_234_567  # read once, in several chunks


def declared(stage: Stage) -> int:
    """How many declarations of a hash the server has taken."""
    return stage.server.text().count("POST /declareFileHash 200")


@at("upload.hash.followed upload.hash.declared")
def big_file(folder: Path, arming: str) -> None:
    """A big file, whose hash is taken while it is sent, on a daemon's first day."""
    with Stage(folder) as stage:
        stage.put("year/day/film.mov", BIG)
        stage.start_server()
        stage.daemon_dies(arming)
        stage.at_rest()
        assert declared(stage)


@at("upload.hash.kept")
def half_hashed(folder: Path, arming: str) -> None:
    """A file so big that the hash is remembered on the way; a restart goes on with it, and the file is right."""
    with Stage(folder) as stage:
        path = stage.put("film.mov", KEPT_BYTES + 3 * BIG)
        wait_until("its times count", lambda: time.time() - path.stat().st_ctime > 2.1, 5)
        stage.start_server()
        stage.daemon_dies(arming)
        stage.at_rest()
        assert declared(stage)


@at("upload.version.unsteady")
def touched_while_read_once(folder: Path, arming: str) -> None:
    """The file has another time than the one that is being sent: that session ends, and the newer version arrives."""
    with Stage(folder) as stage:
        path = stage.put("film.mov", BIG)

        def act() -> None:
            stage.daemon.wait_stopped()
            os.utime(path, (1_700_000_000,) * 2)
            stage.daemon.go_on()

        stage.start_server()
        stage.daemon_dies(f"upload.chunk.sending:3=stop,{arming}", act)
        stage.to_send += BIG
        stage.at_rest(states=("superseded", "done"))
