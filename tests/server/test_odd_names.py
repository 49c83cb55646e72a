"""Names that the protocol allows and the server's file system does not take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunkyd.errors import Problem
from chunkyd.files import Fingerprint
from chunkyd.protocol.digests import content_digest
from chunkyd.protocol.paths import Target
from chunkyd.storage.base import Attributes, NameRefused
from chunkyd.storage.disk import DiskStorage
from chunkyd.storage.memory import MemoryStorage
from tests.server.batches import entry
from tests.server.bench import Bench, Came, run


class PoorStorage(MemoryStorage):
    """A file system that has no colon in its names."""

    def publish(self, session_id: str, target: Target, *, keep_old: bool) -> Fingerprint:
        if b":" in target.path:
            raise NameRefused(target.path)
        return super().publish(session_id, target, keep_old=keep_old)


def test_a_name_that_the_disk_does_not_take_is_said() -> None:
    """Not verified for ever: the last chunk and every status say what is wrong; an end frees the space."""

    async def scenario() -> None:
        bench = Bench(PoorStorage())
        session = await bench.open(b"data", b"12:00")
        for asking in (bench.put(session, b"data"), bench.uploads.status(session)):
            with pytest.raises(Problem) as found:
                await asking
            assert found.value.name == "malformed-request"
        assert await bench.uploads.end(session) == "cancelled"
        assert not list(bench.storage.partials())
        await bench.close()

    run(scenario)


def test_in_a_batch_it_spoils_no_other() -> None:
    """Its own problem, in its own place."""

    async def scenario() -> None:
        bench = Bench(PoorStorage())
        body = entry(b"a", b"a") + entry(b"12:00", b"b") + entry(b"c", b"c")
        outcomes = await bench.uploads.batch("u", len(body), {"crc32c": content_digest(body)}, Came(body))
        assert [found.problem.name if found.problem else found.result for found in outcomes] == [
            "complete",
            "malformed-request",
            "complete",
        ]
        assert not list(bench.storage.partials())
        await bench.close()

    run(scenario)


@pytest.mark.parametrize("path", [b"n" * 300, b"n" * 300 + b"/f", b"new/" + b"n" * 300])
def test_a_disk_with_shorter_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: bytes) -> None:
    """Longer than the file system bears, at either place of the path: refused, with nothing made and nothing lost."""
    monkeypatch.setattr("chunkyd.storage.names.MAX_PART_BYTES", 400)  # so that the file system itself is asked
    monkeypatch.setattr("chunkyd.protocol.paths.MAX_PART_BYTES", 400)
    storage = DiskStorage(str(tmp_path))
    storage.create("one", 4)
    storage.prepare("one", Attributes())
    for keep_old in (False, True):
        with pytest.raises(NameRefused):
            storage.publish("one", Target("u", path), keep_old=keep_old)
    assert storage.published(Target("u", path)) is None and storage.open_published(Target("u", path)) is None
    assert list(storage.walk()) == [] and storage.inode("one") is not None
    assert os.listdir(tmp_path / "files") == []
    storage.close()
