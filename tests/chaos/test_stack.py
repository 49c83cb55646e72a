"""The client library against the real server, storage and catalog, in one process: every request may be lost, cut,
repeated or answered in vain, both sides crash, files change, sessions expire.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from chunkyd.clock import ManualClock
from chunkyd.errors import ChunkyError, Interrupted, Problem, SourceChanged, Unreachable
from chunkyd.protocol.messages import Initiate
from chunkyd.upload import source, uploader
from chunkyd.upload.sqlite_memory import SqliteMemory
from chunkyd.upload.transport import Opened
from chunkyd.upload.uploader import Result, Uploader
from tests.chaos.in_process import TTL, URL, InProcessClient, InProcessServer
from tests.chaos.ledger import Ledger, aside, hash_of

LONG = os.environ.get("CHUNKYD_LONG_TESTS") == "1"
KIB = 1024
CHUNK = 4 * KIB
FATES = ["well"] * 6 + ["lost", "answer lost", "cut", "twice", "crash before", "crash after", "client dies"]
PATHS = ["a", "b"]
SIZES = [0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 1, 6 * CHUNK]


class Stack(RuleBasedStateMachine):
    """Two files, one client, one server."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="chunkyd-stack-"))
        self.box = self.folder / "box"
        self.box.mkdir()
        self.clock = ManualClock()
        self.server = InProcessServer(self.folder / "data", self.clock)
        self.client = InProcessClient(self.server, self.clock)
        self.ledger = Ledger()
        self.memory = SqliteMemory(str(self.folder / "memory.sqlite3"))
        self.chance = random.Random(0)

    def published(self) -> dict[bytes, bytes]:
        """What the server shows."""
        top = self.folder / "data" / "files" / "local"
        return {os.fsencode(path.name): path.read_bytes() for path in top.glob("*")} if top.exists() else {}

    # The files

    @rule(path=st.sampled_from(PATHS), size=st.sampled_from(SIZES), seed=st.integers(0, 3), replace=st.booleans())
    def a_file_is_written(self, path: str, size: int, seed: int, replace: bool) -> None:
        """Made, or changed within, or replaced; sometimes by what it was before."""
        content = random.Random(f"{size} {seed}").randbytes(size)
        self.ledger.note(path.encode(), hash_of(content))
        target = self.box / path
        if replace:
            (self.folder / "new").write_bytes(content)
            (self.folder / "new").rename(target)
        else:
            target.write_bytes(content)

    @rule(path=st.sampled_from(PATHS), mode=st.sampled_from([0o600, 0o644]), seconds=st.integers(0, 10**9))
    def only_time_and_mode_change(self, path: str, mode: int, seconds: int) -> None:
        """Its bytes stay."""
        if (self.box / path).exists():
            (self.box / path).chmod(mode)
            os.utime(self.box / path, (seconds, seconds))

    # Uploads

    @rule(path=st.sampled_from(PATHS), fates=st.lists(st.sampled_from(FATES), max_size=25))
    def an_upload(self, path: str, fates: list[str]) -> None:
        """Complete means complete; anything else is an error that may come."""
        if not (self.box / path).exists():
            self.a_file_is_written(path, SIZES[-1], 0, replace=False)
        self._upload(path, fates)

    @rule(path=st.sampled_from(PATHS), seed=st.integers(0, 3), fates=st.lists(st.sampled_from(FATES), min_size=3))
    def a_change_and_an_upload(self, path: str, seed: int, fates: list[str]) -> None:
        """Of several chunks, with much to meet."""
        self.a_file_is_written(path, SIZES[-1 - seed % 2], seed, replace=seed > 1)
        self._upload(path, fates)

    def _upload(self, path: str, fates: list[str]) -> Result | None:
        self.client.meet(fates)
        uploader = Uploader(
            URL,
            str(self.box / path),
            memory=self.memory,
            parallel_chunks=2,
            chunk_size=CHUNK,
            attempts=4,
            base=0.001,
            max_wait=0.01,
            client=self.client,
            stop=self.client.stop,
        )
        try:
            result = uploader.upload()
        except (Unreachable, Interrupted, SourceChanged):
            return None
        except Problem as found:
            assert found.action in ("new-session", "wait", "retry"), found
            return None
        source = self.box / path
        there = self.folder / "data" / "files" / "local" / path
        assert there.read_bytes() == source.read_bytes()
        assert there.stat().st_mtime_ns == source.stat().st_mtime_ns
        assert stat.S_IMODE(there.stat().st_mode) == stat.S_IMODE(source.stat().st_mode)
        assert result.file_hash == hash_of(source.read_bytes())
        return result

    # Everything else

    @rule(what=st.sampled_from(["server", "client", 10.0, TTL / 2, TTL + 1]))
    def between_uploads(self, what: str | float) -> None:
        """The server crashes, the client begins anew with what it has written down, time passes and sessions expire."""
        if what == "server":
            self.server.crash()
        elif what == "client":
            self.memory.close()
            self.memory = SqliteMemory(str(self.folder / "memory.sqlite3"))
        elif isinstance(what, float):
            self.clock.advance(what)
            self.server.tick()

    # What must hold

    @invariant()
    def what_is_published_was_there(self) -> None:
        """Every file is one version of its path, and none is kept twice in a row."""
        published = self.published()
        for path, content in published.items():
            assert self.ledger.knows(path, hash_of(content)), path
        for path in PATHS:
            kept = {
                number: content
                for (stem, number), content in ((aside(name), content) for name, content in published.items())
                if stem == path.encode() and number is not None
            }
            row = [kept[number] for number in sorted(kept)] + [published.get(path.encode(), None)]
            assert all(row[at] != row[at + 1] for at in range(len(row) - 1)), path

    def teardown(self) -> None:
        """With a network that works everything arrives, and nothing is left behind but what expires."""
        try:
            for path in PATHS:
                if (self.box / path).exists():
                    assert self._upload(path, []) is not None or self._upload(path, []) is not None
            self.what_is_published_was_there()
            assert self.memory.endings(URL) == []
            left = [each for each in self.server.catalog.sessions() if self.server.catalog.stored(each.session_id)]
            assert left == []
            self.clock.advance(TTL + 1)
            self.server.tick()
            assert os.listdir(self.folder / "data" / "partial") == []
        except ChunkyError as error:
            raise AssertionError(f"{error!r}") from error
        finally:
            self.memory.close()
            self.client.close()
            self.server.close()
            shutil.rmtree(self.folder)


PROFILE = settings(
    max_examples=200 if LONG else 12,
    stateful_step_count=30 if LONG else 15,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=list(HealthCheck),
)


def test_stack() -> None:
    """Whatever comes between the client library and a whole server, the invariants hold."""
    run_state_machine_as_test(Stack, settings=PROFILE)  # type: ignore[no-untyped-call]


def test_stack_with_late_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where files of a chunk and more are read once, however often one of their size was sent before."""
    named: set[bool] = set()
    initiate = InProcessClient.initiate

    def noted(client: InProcessClient, request: Initiate, *arguments: Any) -> Opened:
        named.add(request.file_version is not None)
        return initiate(client, request, *arguments)

    monkeypatch.setattr(uploader, "LATE_BYTES", CHUNK - 1)
    monkeypatch.setattr(source, "_STEADY_SECONDS", -1e12)  # the clock by hand knows nothing of the files' times
    monkeypatch.setattr(InProcessClient, "initiate", noted)
    run_state_machine_as_test(Stack, settings=PROFILE)  # type: ignore[no-untyped-call]
    assert named == {False, True}
