"""What leads to the checkpoints of a batch, and what must hold after the server died there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from tests.faults.scenarios import at
from tests.faults.stage import Stage
from tests.server.batches import entry, results, send
from tests.server.process import Client


@at(
    "server.batch.writing*2 server.batch.prepared*2 server.batch.recorded server.batch.placed server.batch.completed"
    " server.batch.answering"
)
def a_batch(folder: Path, arming: str) -> None:
    """New files, new versions, and one that only gets a new time: sent again, all are there, once and whole."""
    with Stage(folder) as stage:
        old = {b"f/%d" % number: os.urandom(100) for number in range(10)}
        new = {**old, **{b"f/%d" % number: os.urandom(100 * number) for number in range(5, 150)}}

        def offer(files: dict[bytes, bytes]) -> list[str]:
            return results(send(Client(stage.server.port), *(entry(path, files[path]) for path in sorted(files))))

        stage.start_server()
        assert offer(old) == ["complete"] * len(old)
        stage.server.stop()
        with contextlib.suppress(OSError):
            stage.server_dies(arming, lambda: offer(new))
        assert offer(new) == ["complete"] * len(new)
        there = stage.server.files()
        whole = {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("*") if path.is_file()}
        kept = {name: content for name, content in whole.items() if name.endswith("~")}
        expected = {path.decode(): content for path, content in new.items()}
        assert whole == {**expected, **{f"f/{number}.~1~": old[b"f/%d" % number] for number in range(5, 10)}}, kept
        stage.server_at_rest()
