"""The hostile suite of the storage contract, second part: many small files together."""

from __future__ import annotations

from chunkyd.errors import StorageFull
from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target
from chunkyd.storage.base import Attributes, NewFile, PathConflict, Prepared, Publication, Storage
from tests.storage.helpers import content_of, everything, publish

MEBIBYTE = 1 << 20


def prepared(storage: Storage, **contents: bytes) -> None:
    """Partials, named by the keywords, with these bytes."""
    files = [NewFile(name, content, Attributes()) for name, content in contents.items()]
    assert all(isinstance(outcome, Prepared) for outcome in storage.prepare_all(files))


def publications(*goes: tuple[str, bytes], keep_old: bool = False) -> list[Publication]:
    """Partial and path, for the user ann."""
    return [Publication(name, Target("ann", path), keep_old) for name, path in goes]


class GroupContract:
    """`prepare_all` and `publish_all`."""

    def test_prepared_is_what_was_given(self, storage: Storage) -> None:
        """Each partial has its bytes, attributes and the inode that was told; memoryviews are as good as bytes."""
        view = memoryview(bytearray(b"two"))
        files = [
            NewFile("one", b"", Attributes(1_700_000_000_123_456_789, 0o640)),
            NewFile("two", view, Attributes()),
        ]
        outcomes = storage.prepare_all(files)
        assert [storage.inode(file.session_id) for file in files] == [
            outcome.inode for outcome in outcomes if isinstance(outcome, Prepared)
        ]
        found = storage.publish("one", Target("ann", b"1"), keep_old=False)
        assert (found.size, found.mtime_ns) == (0, 1_700_000_000_123_456_789)
        storage.publish("two", Target("ann", b"2"), keep_old=False)
        assert everything(storage) == {b"1": b"", b"2": b"two"}

    def test_nothing_is_nothing(self, storage: Storage) -> None:
        """No files, no publications: no outcomes."""
        assert storage.prepare_all([]) == [] and storage.publish_all([]) == []

    def test_one_that_is_there_already_spoils_no_other(self, storage: Storage) -> None:
        """A taken session ID is that file's failure, and the partial that was there keeps its bytes."""
        prepared(storage, old=b"old")
        outcomes = storage.prepare_all([NewFile(name, b"new", Attributes()) for name in ("first", "old", "last")])
        assert [type(outcome) for outcome in outcomes] == [Prepared, FileExistsError, Prepared]
        storage.publish("old", Target("ann", b"x"), keep_old=False)
        assert content_of(storage, b"x") == b"old"

    def test_each_goes_where_it_belongs(self, storage: Storage) -> None:
        """Neighbours, other folders and other users in one group, each fingerprint in its place."""
        prepared(storage, a=b"a", b=b"bb", c=b"ccc", d=b"dddd")
        outcomes = storage.publish_all(
            [
                *publications(("a", b"f/a"), ("b", b"f/b"), ("c", b"g/h/c")),
                Publication("d", Target("bob", b"f/a"), False),
            ]
        )
        assert [outcome.size for outcome in outcomes if isinstance(outcome, Fingerprint)] == [1, 2, 3, 4]
        assert everything(storage) == {b"f/a": b"a", b"f/b": b"bb", b"g/h/c": b"ccc"}
        assert everything(storage, "bob") == {b"f/a": b"dddd"}
        assert storage.published(Target("ann", b"f/b")) == outcomes[1]
        assert list(storage.partials()) == []

    def test_one_failure_spoils_no_other(self, storage: Storage) -> None:
        """A folder in the way and a partial that is gone fail alone: those before and behind them are published."""
        publish(storage, b"f/full/x", b"x")
        prepared(storage, a=b"a", b=b"b", c=b"c")
        outcomes = storage.publish_all(
            publications(("a", b"f/a"), ("b", b"f/full"), ("gone", b"f/gone"), ("c", b"f/c"))
        )
        assert isinstance(outcomes[0], Fingerprint) and isinstance(outcomes[3], Fingerprint)
        assert isinstance(outcomes[1], PathConflict) and isinstance(outcomes[2], FileNotFoundError)
        assert everything(storage) == {b"f/a": b"a", b"f/full/x": b"x", b"f/c": b"c"}
        assert list(storage.partials()) == ["b"]

    def test_old_versions(self, storage: Storage) -> None:
        """In one group one old version is kept and another replaced, and a file gives way to a folder."""
        for name in (b"f/kept", b"f/replaced", b"f/way"):
            publish(storage, name, b"old")
        prepared(storage, a=b"a", b=b"b", c=b"c")
        storage.publish_all(
            [*publications(("a", b"f/kept"), keep_old=True), *publications(("b", b"f/replaced"), ("c", b"f/way/c"))]
        )
        assert everything(storage) == {b"f/kept": b"a", b"f/kept.~1~": b"old", b"f/replaced": b"b", b"f/way/c": b"c"}

    def test_again_after_a_crash(self, storage: Storage) -> None:
        """Published once more with other partials, the same paths hold the later bytes: nothing is half of each."""
        for round_ in (b"1", b"2"):
            names = {f"s{number}r{round_.decode()}": round_ * 100 for number in range(20)}
            prepared(storage, **names)
            outcomes = storage.publish_all(publications(*((name, b"f/" + name[:3].encode()) for name in names)))
            assert all(isinstance(outcome, Fingerprint) for outcome in outcomes)
        assert set(everything(storage).values()) == {b"2" * 100}


class FullGroupContract:
    """No room for all of them."""

    def test_those_that_fit_are_prepared(self, small_storage: Storage) -> None:
        """On two mebibytes: each file that has no room says so and leaves nothing, the others are whole."""
        half = MEBIBYTE // 2
        files = [NewFile(f"s{number}", bytes([number]) * half, Attributes()) for number in range(6)]
        outcomes = small_storage.prepare_all(files)
        fits = [file.session_id for file, outcome in zip(files, outcomes, strict=True) if isinstance(outcome, Prepared)]
        assert 1 <= len(fits) < len(files)
        assert all(isinstance(outcome, Prepared | StorageFull) for outcome in outcomes)
        assert sorted(small_storage.partials()) == sorted(fits)
        small_storage.publish(fits[0], Target("ann", b"x"), keep_old=False)
        assert content_of(small_storage, b"x") == files[0].content
