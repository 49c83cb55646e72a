"""Small files that go together: whatever happens to their one request, each arrives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.control.base import Selection
from tests.e2e.programs import Server, running, wait_until
from tests.faults.test_network_answers import DRESSED, USELESS
from tests.faults.test_network_held import Field
from tests.upload.faultproxy import FaultProxy, Seen
from tests.upload.netfaults import Break, Corrupt, Fault

BATCH = "/uploadBatch"
FAULTS: dict[str, Fault] = {
    **{
        f"{where}-{how}": Break(where, how)
        for where in ("head", "work", "answer", "idle")
        for how in ("reset", "close")
    },  # type: ignore[arg-type]
    **{f"body-{how}": Break("body", how, 20_000) for how in ("reset", "close")},  # type: ignore[arg-type]
    **{f"{where}-silence": Break(where, "silence") for where in ("work", "answer")},  # type: ignore[arg-type]
    "corrupted": Corrupt(30_000),
    **{name: DRESSED[name] for name in ("chunked", "gzip", "103-early-hints", "twice")},
    **{name: USELESS[name] for name in ("captive-portal", "cut-json", "not-http", "of-another-request", "502", "429")},
}


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    """A daemon with small files to send."""
    folder = tmp_path_factory.mktemp("batch")
    server = Server(folder)
    with FaultProxy(server.port) as proxy:
        field = Field(folder, proxy, server)
        with running(server, field.daemon):
            yield field


def all_arrive(field: Field, put: list[Path]) -> None:
    """Whole, and nothing is left to do."""
    wait_until("all arrive", lambda: all(each.exists() for each in put), 90, field.daemon.text)
    wait_until("no job is left", lambda: not field.control.jobs().jobs, 90, field.daemon.text)
    for each in put:
        assert each.read_bytes() == (field.box / each.name).read_bytes()
    assert "Traceback" not in field.daemon.text() + field.server.text()


SAMPLE = ("work-reset", "body-reset", "answer-close", "corrupted", "103-early-hints", "captive-portal")


@pytest.mark.parametrize(
    "name", [*SAMPLE, *(pytest.param(n, marks=pytest.mark.long) for n in FAULTS if n not in SAMPLE)]
)
def test_a_fault_in_a_batch(field: Field, name: str) -> None:
    """All files of it arrive, whole, by themselves; none fails for its neighbours, and none is sent more than twice."""
    met: list[Seen] = []
    asked, alone = len(field.proxy.requests), field.proxy.body_bytes

    def plan(seen: Seen) -> Fault | None:
        if seen.path != BATCH or met or int(seen.headers["content-length"]) < 60_000:  # one of headers alone
            return None
        met.append(seen)
        return FAULTS[name]

    field.control.pause(Selection())
    put = [field.put(30_000) for _ in range(5)]
    wait_until("all are queued", lambda: len(field.control.jobs().jobs) == 5, 30, field.daemon.text)
    field.proxy.plan = plan
    field.control.resume(Selection())
    all_arrive(field, put)
    field.proxy.plan = lambda seen: None
    assert met
    together = [int(seen.headers["content-length"]) for seen in field.proxy.requests[asked:] if seen.path == BATCH]
    assert sum(together) + field.proxy.body_bytes - alone <= 2 * 5 * 30_000 + 20_000  # heads, alone and with the bytes


@pytest.mark.parametrize("name", ["reset", "portal", pytest.param("silence", marks=pytest.mark.long)])
def test_a_fault_in_the_question_whether_a_server_takes_batches(tmp_path: Path, name: str) -> None:
    """OPTIONS goes unanswered, or is answered by another: the files arrive all the same."""
    server = Server(tmp_path)
    with FaultProxy(server.port) as proxy:
        faults: dict[str, Fault] = {
            "reset": Break("work", "reset"),
            "portal": USELESS["captive-portal"],
            "silence": Break("work", "silence"),
        }
        met: list[Seen] = []

        def plan(seen: Seen) -> Fault | None:
            if seen.method != "OPTIONS" or met:
                return None
            met.append(seen)
            return faults[name]

        proxy.plan = plan
        field = Field(tmp_path, proxy, server)
        put = [field.put(os.urandom(1)[0] + 1) for _ in range(5)]
        with running(server, field.daemon):
            all_arrive(field, put)
            assert met
