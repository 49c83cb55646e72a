"""Real processes die at every named step of what they do to files and tables; nothing is lost, doubled, or left behind.

`make test` takes one or two steps of each part of the way; `make crash` takes them all, and at those that a scenario
comes by several times the later arrivals too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkyd.checkpoints import CHECKPOINTS
from tests.e2e.programs import tree
from tests.faults import batch_scenarios, daemon_scenarios, late_scenarios, server_scenarios
from tests.faults.scenarios import ARRIVALS, SCENARIOS
from tests.faults.stage import Stage
from tests.server.process import Client

# One for each place where a crash leaves something of its own kind behind.
SAMPLE = frozenset(
    {
        "files.atomic.synced",
        "storage.partial.durable",
        "storage.publish.rejoined",
        "storage.finish.synced",
        "storage.old.kept",
        "storage.replaced.freeing",
        "catalog.damaged.moved",
        "catalog.token.added",
        "server.chunk.synced",
        "server.chunk.recorded",
        "server.verdict.wrong",
        "server.publish.recorded",
        "server.publish.overtaken",
        "server.batch.placed",
        "server.copy.made",
        "jobs.offered",
        "jobs.arrival.recorded",
        "jobs.destination.recorded",
        "jobs.group.arriving",
        "jobs.restarted",
        "jobs.backup.written",
        "daemon.after.hidden",
        "daemon.delete.deleted",
        "daemon.copy.named",
        "daemon.ending.answered",
        "upload.session.opened",
        "upload.hash.followed",
        "upload.version.unsteady",
        "server.hash.recorded",
        "upload.chunk.stored",
        "upload.memory.committed",
    }
)


def test_every_checkpoint_has_its_scenario() -> None:
    """No checkpoint is left out, and no scenario leads to one that is not there."""
    modules = (batch_scenarios, daemon_scenarios, late_scenarios, server_scenarios)
    assert {module.__name__ for module in modules} == {each.__module__ for each in SCENARIOS.values()}
    assert set(SCENARIOS) == set(CHECKPOINTS)
    assert set(CHECKPOINTS) >= SAMPLE


def armings() -> list[object]:
    """Every checkpoint, at every arrival that its scenario is sure of; all but the sample are left to `make crash`."""
    return [
        pytest.param(
            f"{name}:{arrival}",
            id=f"{name}:{arrival}",
            marks=[] if name in SAMPLE and arrival == 1 else [pytest.mark.long],
        )
        for name in CHECKPOINTS
        for arrival in range(1, ARRIVALS.get(name, 1) + 1)
    ]


@pytest.mark.parametrize("arming", armings())
def test_crash(tmp_path: Path, arming: str) -> None:
    """The process dies exactly there, starts again, and in the end all has arrived, once, and nothing is left."""
    SCENARIOS[arming.partition(":")[0]](tmp_path, arming)


@pytest.mark.parametrize(
    "arming", ["server.end.recorded", "storage.partial.discarding", "storage.partial.discarded", "server.end.answering"]
)
def test_an_unfinished_session_that_is_ended(tmp_path: Path, arming: str) -> None:
    """Its end is recorded before its bytes go: they are gone at the latest when the server is up again."""
    with Stage(tmp_path) as stage:
        client, sessions = Client(stage.server.port), []

        def send() -> None:
            sessions.append(client.initiate(b"some bytes", b"file"))
            sessions[0].put(0, 4)
            sessions[0].end()

        stage.server_dies(arming, send)
        assert (stage.partials(), stage.sessions()) == ([], [])
        assert sessions[0].status().problem == "invalid-session-id"
        assert tree(stage.server.files()) == {}
