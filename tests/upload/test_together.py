"""Small files together: to a real server, through the proxy that breaks things."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

import crc32c
import pytest

from chunkyd.errors import Interrupted
from chunkyd.files import fingerprint
from chunkyd.protocol.batch import MAX_CONTENT_BYTES, PATH_BATCH
from chunkyd.upload import Client
from chunkyd.upload.limiter import Limiter
from chunkyd.upload.source import Source
from chunkyd.upload.together import Small, Together, _Pieces
from tests.e2e.programs import Server, running
from tests.upload.faultproxy import Answer, Cut, FaultProxy, Seen, Stall, Swallow


def never() -> bool:
    """Nobody stops it."""
    return False


@pytest.fixture
def small(tmp_path: Path) -> list[Small]:
    """A few small files of random bytes, one of them empty."""
    made = []
    for number in range(12):
        path = tmp_path / f"f{number}"
        path.write_bytes(os.urandom(number * 1000))
        made.append(Small(os.fsencode(path), f"{tmp_path.name}/f{number}".encode()))
    return made


def lengths(proxy: FaultProxy) -> int:
    """The bytes of all batches' bodies."""
    return sum(int(seen.headers["content-length"]) for seen in proxy.requests if seen.path == PATH_BATCH)


def published(server: Server, file: Small) -> Path:
    return server.files() / os.fsdecode(file.path)


def test_content_in_pieces() -> None:
    """Any range of it reads as of the whole, across pieces, beside empty ones, up to its end and no further."""
    pieces = [b"abc", b"", b"d", b"efghij", b""]
    whole = b"".join(pieces)
    content = _Pieces(pieces)
    assert len(content) == len(whole)
    assert content.crc32c() == int(crc32c.crc32c(whole)).to_bytes(4, "big")
    for start in range(len(whole) + 1):
        for length in range(len(whole) + 2):
            assert content.read(start, length) == whole[start : start + length]


def test_they_arrive(proxy: FaultProxy, server: Server, small: list[Small]) -> None:
    """All in an offer and one body: byte for byte, each with its result, as the files are then."""
    together = Together(Client(proxy.url))
    results = together.send(small, never)
    for file, result in zip(small, results, strict=True):
        content = Path(os.fsdecode(file.source)).read_bytes()
        assert result is not None and published(server, file).read_bytes() == content
        assert (result.file_hash, result.size) == (hashlib.sha256(content).hexdigest(), len(content))
        assert result.fingerprint == fingerprint(os.stat(file.source))
        assert not result.instant
    assert proxy.count(PATH_BATCH) == 2


def test_what_is_known_does_not_travel_again(proxy: FaultProxy, small: list[Small]) -> None:
    """The same files once more, by another client: one request of headers, not a byte of content."""
    Together(Client(proxy.url)).send(small, never)
    before = lengths(proxy)
    results = Together(Client(proxy.url)).send(small, never)
    assert all(result is not None and result.instant and result.bytes_sent == 0 for result in results)
    assert proxy.count(PATH_BATCH) == 3
    assert lengths(proxy) - before < 12 * 400 < sum(os.stat(file.source).st_size for file in small)


def test_it_stops_asking_where_nothing_is_known(proxy: FaultProxy, small: list[Small]) -> None:
    """After a batch that was wanted, the next one is sent without an offer; after one that was known, it is offered."""
    together = Together(Client(proxy.url))
    counts = []
    for part in (small[:4], small[4:8], small[4:8], small[4:8]):
        before = proxy.count(PATH_BATCH)
        assert all(together.send(part, never))
        counts.append(proxy.count(PATH_BATCH) - before)
    assert counts == [2, 1, 1, 1]
    assert lengths(proxy) < 2 * sum(os.stat(file.source).st_size for file in small)


def test_what_needs_an_upload_of_its_own(proxy: FaultProxy, server: Server, small: list[Small], tmp_path: Path) -> None:
    """Gone, unreadable, too big, another version than the one meant: left alone, and the others arrive."""
    (tmp_path / "big").write_bytes(bytes(MAX_CONTENT_BYTES + 1))
    (tmp_path / "link").symlink_to("f1")
    other = fingerprint(os.stat(small[1].source))
    alone = [
        Small(os.fsencode(tmp_path / "gone"), b"gone"),
        Small(os.fsencode(tmp_path / "big"), b"big"),
        Small(os.fsencode(tmp_path / "link"), b"link"),
        Small(small[2].source, b"other", other),
    ]
    meant = [Small(file.source, file.path, fingerprint(os.stat(file.source))) for file in small]
    results = Together(Client(proxy.url)).send([*alone, *meant], never)
    assert results[:4] == [None] * 4 and all(results[4:])
    assert not any(published(server, file).exists() for file in alone)


def test_a_file_that_changes_meanwhile_does_not_count(proxy: FaultProxy, server: Server, small: list[Small]) -> None:
    """Edited while the request is under way: no result for it, and what is published is a version that existed."""
    path = Path(os.fsdecode(small[5].source))
    old = path.read_bytes()

    def edit(seen: Seen) -> None:
        if seen.path == PATH_BATCH and path.read_bytes() == old:
            path.write_bytes(b"edited")

    proxy.plan = edit
    results = Together(Client(proxy.url)).send(small, never)
    assert [index for index, result in enumerate(results) if result is None] == [5]
    assert published(server, small[5]).read_bytes() in (old, b"edited")


def test_a_file_that_changes_while_it_is_read_is_not_sent(
    proxy: FaultProxy, server: Server, small: list[Small], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of it may be a version that never was: not even for a moment is it published."""
    path = Path(os.fsdecode(small[5].source))

    class Edited(Source):
        """A source that somebody writes to between two reads."""

        def read(self, start: int, length: int) -> bytes:
            piece = super().read(start, length)
            if self.path == small[5].source:
                path.write_bytes(piece[::-1])
            return piece

    monkeypatch.setattr("chunkyd.upload.together.Source", Edited)
    results = Together(Client(proxy.url)).send(small, never)
    assert [index for index, result in enumerate(results) if result is None] == [5]
    assert not published(server, small[5]).exists()


def test_a_folder_that_gives_way_to_a_link_meanwhile(proxy: FaultProxy, tmp_path: Path) -> None:
    """The same file still, but its path leads through a link by now: below the root none is followed, nor believed."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "sub").mkdir(parents=True)
    files = []
    for name in ("sub/linked", "stays"):
        (root / name).write_bytes(os.urandom(1000))
        files.append(Small(os.fsencode(root / name), f"{tmp_path.name}/{name}".encode(), root=os.fsencode(root)))

    def swap(seen: Seen) -> None:
        if seen.path == PATH_BATCH and not elsewhere.exists():
            (root / "sub").rename(elsewhere)
            (root / "sub").symlink_to(elsewhere)

    proxy.plan = swap
    results = Together(Client(proxy.url)).send(files, never)
    assert (root / "sub" / "linked").exists()
    assert [result is None for result in results] == [True, False]


def test_a_server_without_batches(proxy: FaultProxy, small: list[Small]) -> None:
    """Nothing is sent to a server that does not name the extension."""
    limits = b'{"digests":["crc32c"],"maxChunkBytes":1000000,"maxFileBytes":1000000,"extensions":[]}'
    proxy.plan = lambda seen: Answer(200, limits)
    assert Together(Client(proxy.url)).send(small, never) == [None] * len(small)
    assert proxy.count(PATH_BATCH) == 0


@pytest.mark.parametrize(
    "fault",
    [
        Cut(2000),
        Swallow(),
        Answer(503, b""),
        Answer(200, b'{"result":"complete"}\n'),
        Answer(200),
        Answer(404, b""),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_what_fails_on_the_way_is_left_alone(proxy: FaultProxy, small: list[Small], fault: object) -> None:
    """Cut, without an answer, or with one that is not the protocol's: no result, no exception; later all is well."""
    together = Together(Client(proxy.url))
    proxy.plan = lambda seen: fault if seen.path == PATH_BATCH else None  # type: ignore[return-value,assignment]
    assert together.send(small, never) == [None] * len(small)
    proxy.plan = lambda seen: None
    assert all(together.send(small, never))


def test_one_refused_file_spoils_no_other(proxy: FaultProxy, server: Server, small: list[Small]) -> None:
    """A folder stands in one's way on the server: only that one is left to an upload of its own."""
    blocked = server.files() / os.fsdecode(small[3].path)
    (blocked / "within").mkdir(parents=True)
    results = Together(Client(proxy.url)).send(small, never)
    assert [index for index, result in enumerate(results) if result is None] == [3]


def test_a_server_that_takes_little(tmp_path: Path, small: list[Small]) -> None:
    """Where a request may hold less than the files together they go in several, and what fits in none is left alone."""
    server = Server(tmp_path, limits={"reserve": "1MiB", "chunk": "9000B"})
    with running(server), FaultProxy(server.port) as proxy:
        results = Together(Client(proxy.url)).send(small, never)
        assert [index for index, result in enumerate(results) if result is None] == [9, 10, 11]
        assert proxy.count(PATH_BATCH) > 6


def test_a_server_that_takes_less_by_now(tmp_path: Path, small: list[Small]) -> None:
    """It was asked what it takes, and takes less after a restart: it is asked once more, and batches go on."""
    server = Server(tmp_path)
    with running(server):
        together = Together(Client(server.url))
        assert all(together.send(small, never))
        server.stop()
        server.settings["limits"]["chunk"] = "9000B"
        server.write_config()
        server.start()
        for file in small:
            Path(os.fsdecode(file.source)).write_bytes(os.urandom(900))
        together._offering = False  # no question before, that would be small enough
        assert together.send(small, never) == [None] * len(small)
        assert all(together.send(small, never))


def test_stopped_in_the_middle(proxy: FaultProxy, small: list[Small]) -> None:
    """While the answer is awaited a stop ends it at once, by Interrupted."""
    waiting = threading.Event()

    def stall(seen: Seen) -> Stall | None:
        if seen.path != PATH_BATCH:
            return None
        waiting.set()
        return Stall(0)

    proxy.plan = stall
    with pytest.raises(Interrupted):
        Together(Client(proxy.url)).send(small, waiting.is_set)


def test_a_rate_holds_for_batches(proxy: FaultProxy, small: list[Small]) -> None:
    """Every byte of the bodies is paid for at the limiter."""

    class Counting(Limiter):
        paid = 0

        def take(self, wanted: int, proceed: object) -> int:
            self.paid += min(wanted, 1000)
            return min(wanted, 1000)

    limiter = Counting()
    assert all(Together(Client(proxy.url), limiter).send(small, never))
    assert limiter.paid == lengths(proxy)
