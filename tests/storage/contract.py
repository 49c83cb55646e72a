"""The hostile suite of the storage contract: every implementation passes all of it."""

from __future__ import annotations

import contextlib
import threading

import pytest

from chunkyd.errors import StorageFull
from chunkyd.protocol.paths import Target
from chunkyd.storage.base import Attributes, PathConflict, Storage
from tests.storage.helpers import content_of, everything, publish, upload

MEBIBYTE = 1 << 20


class PartialContract:
    """Files in progress."""

    def test_a_new_partial_reads_as_zeros(self, storage: Storage) -> None:
        """A partial has its full size at once, and what nobody wrote reads as zeros, never as another file's bytes."""
        storage.create("one", 100_000)
        with contextlib.closing(storage.open("one")) as partial:
            assert partial.read(0, 200_000) == bytes(100_000)
            assert partial.read(100_000, 1) == b""

    def test_writes_in_any_order(self, storage: Storage) -> None:
        """Bytes written out of order, as memoryviews of any item size, are where they belong."""
        storage.create("one", 12)
        with contextlib.closing(storage.open("one")) as partial:
            partial.write(8, memoryview(bytearray(b"ijkl")).cast("I"))
            partial.write(0, b"abcd")
            partial.write(4, b"")
            partial.write(4, memoryview(b"efgh"))
            partial.sync()
            partial.flush_soon(0, 12)
            assert partial.read(2, 8) == b"cdefghij"

    def test_pieces_are_written_on_end(self, storage: Storage) -> None:
        """More pieces than one system call takes, empty and wide ones among them, follow each other without a gap."""
        pieces = [bytes([number % 251]) * (number % 7) for number in range(3000)]
        whole = b"".join(pieces)
        storage.create("one", 4 + len(whole))
        with contextlib.closing(storage.open("one")) as partial:
            partial.write(0, memoryview(bytearray(b"head")).cast("I"), *pieces)
            assert partial.read(0, 4 + len(whole)) == b"head" + whole

    def test_an_id_is_created_once(self, storage: Storage) -> None:
        """A second create under one ID fails and leaves the first partial's bytes alone."""
        storage.create("one", 3)
        with contextlib.closing(storage.open("one")) as partial:
            partial.write(0, b"abc")
            with pytest.raises(FileExistsError):
                storage.create("one", 9)
            assert partial.read(0, 9) == b"abc"

    @pytest.mark.parametrize("bad", ["", ".", "..", "../files/ann/x", "a/b", ".hidden", "a\0b", "ä", "x" * 300])
    def test_what_cannot_be_an_id_is_refused(self, storage: Storage, bad: str) -> None:
        """A session ID that could name another file never reaches the file system."""
        for call in (storage.open, storage.discard, storage.inode):
            with pytest.raises(ValueError):
                call(bad)
        with pytest.raises(ValueError):
            storage.create(bad, 1)
        with pytest.raises(ValueError):
            storage.publish(bad, Target("ann", b"x"), keep_old=False)

    def test_gone_partials(self, storage: Storage) -> None:
        """A discarded partial is gone for every question, and discarding it again is fine."""
        storage.create("one", 1)
        assert storage.inode("one") is not None
        assert list(storage.partials()) == ["one"]
        storage.discard("one")
        storage.discard("one")
        assert storage.inode("one") is None
        assert list(storage.partials()) == []
        with pytest.raises(FileNotFoundError):
            storage.open("one")
        with pytest.raises(FileNotFoundError):
            storage.prepare("one", Attributes())
        with pytest.raises(FileNotFoundError):
            storage.publish("one", Target("ann", b"x"), keep_old=False)
        assert everything(storage) == {}

    def test_discard_under_an_open_partial(self, storage: Storage) -> None:
        """A partial that is discarded while it is written to does no harm: the writer writes into nothing."""
        storage.create("one", 3)
        with contextlib.closing(storage.open("one")) as partial:
            storage.discard("one")
            partial.write(0, b"abc")
            assert partial.read(0, 3) == b"abc"
        assert storage.inode("one") is None

    def test_closed_means_closed(self, storage: Storage) -> None:
        """A late call after close fails loudly instead of touching whatever file came after."""
        storage.create("one", 3)
        partial = storage.open("one")
        partial.close()
        partial.close()
        for call in (lambda: partial.write(0, b"x"), lambda: partial.read(0, 1), partial.sync):
            with pytest.raises(ValueError):
                call()

    def test_threads_write_one_partial_at_once(self, storage: Storage) -> None:
        """Eight threads with an open partial of their own, or one in common, lose no byte of each other."""
        size, step = 1 << 20, 4096
        storage.create("one", size)
        shared = storage.open("one")
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                partial = shared if number % 2 else storage.open("one")
                for offset in range(number * step, size, 8 * step):
                    partial.write(offset, bytes([number + 1]) * step)
                    partial.flush_soon(offset, offset + step)
                partial.sync()
                if partial is not shared:
                    partial.close()
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        expected = b"".join(bytes([number + 1]) * step for number in range(8))
        assert shared.read(0, size) == expected * (size // len(expected))
        shared.close()


class PublishContract:
    """What users see."""

    def test_published_is_what_was_written(self, storage: Storage) -> None:
        """The bytes, the size and the time arrive exactly; the partial is gone; the inode is the one prepared."""
        session_id = upload(storage, b"hello", Attributes(modified_ns=1_234_567_890_123_456_700, mode=0o640))
        inode = storage.inode(session_id)
        found = storage.publish(session_id, Target("ann", b"a/b/c.txt"), keep_old=False)
        assert (found.inode, found.size, found.mtime_ns) == (inode, 5, 1_234_567_890_123_456_700)
        assert storage.published(Target("ann", b"a/b/c.txt")) == found
        assert everything(storage) == {b"a/b/c.txt": b"hello"}
        assert list(storage.partials()) == []

    def test_users_do_not_see_each_other(self, storage: Storage) -> None:
        """The same path of two users is two files."""
        publish(storage, b"x", b"ann's", user="ann")
        publish(storage, b"x", b"bob's", user="bob")
        assert (content_of(storage, b"x", "ann"), content_of(storage, b"x", "bob")) == (b"ann's", b"bob's")
        assert {target.user for target, _ in storage.walk()} == {"ann", "bob"}
        assert list(storage.walk("carol")) == []

    @pytest.mark.parametrize(
        "path",
        [
            b"\xff\xfe not utf-8 \x80",
            b"new\nline",
            "snow ☃ 🎥.mov".encode(),
            b" leading and trailing ",
            b"n" * 255,
            ("ä" * 127).encode(),
            b"\x01\x1b[31m",
            b".hidden",
            b".~1~",
            b"-rf",
            b"/".join([b"d" * 254] * 16),
            b"/".join([b"d"] * 2048),
        ],
    )
    def test_any_name_the_protocol_allows(self, storage: Storage, path: bytes) -> None:
        """Names of any bytes, of full length, and paths longer and deeper than a system call takes: all come back."""
        publish(storage, path, b"one")
        assert everything(storage) == {path: b"one"}
        found = publish(storage, path, b"two", keep_old=True)
        assert content_of(storage, path) == b"two"
        assert storage.published(Target("ann", path)) == found
        assert sorted(filter(None, everything(storage).values())) == [b"one", b"two"]

    @pytest.mark.parametrize("path", [b"", b"/etc/x", b"..", b"a/../../x", b"a//b", b"a/", b"./a", b"a\0b", b"n" * 256])
    def test_paths_that_lead_out_are_refused(self, storage: Storage, path: bytes) -> None:
        """The storage does not rely on its caller for the rules that keep a file inside."""
        session_id = upload(storage, b"x")
        with pytest.raises(ValueError):
            storage.publish(session_id, Target("ann", path), keep_old=False)
        assert list(storage.partials()) == [session_id]

    @pytest.mark.parametrize("user", ["", ".", "..", "a/b", "../ann", "a\0"])
    def test_users_that_lead_out_are_refused(self, storage: Storage, user: str) -> None:
        """A user's name is one part of a path, or nothing happens."""
        session_id = upload(storage, b"x")
        with pytest.raises(ValueError):
            storage.publish(session_id, Target(user, b"x"), keep_old=False)
        assert list(storage.partials()) == [session_id]

    def test_replace(self, storage: Storage) -> None:
        """Without `keep_old` the old file is gone, and no other name appears."""
        publish(storage, b"x", b"old")
        publish(storage, b"x", b"new")
        assert everything(storage) == {b"x": b"new"}

    def test_keep(self, storage: Storage) -> None:
        """With `keep_old` every version stays, numbered in the order they came."""
        for content in (b"1", b"2", b"3", b"4", b"5", b"6"):
            publish(storage, b"d/x", content, keep_old=True)
        kept = {b"d/x.~%d~" % number: b"%d" % number for number in range(1, 6)}
        assert everything(storage) == {**kept, b"d/x": b"6"}

    def test_keep_takes_a_free_name(self, storage: Storage) -> None:
        """A file or folder of a user that looks like a kept version is never touched."""
        publish(storage, b"x.~1~", b"the user's own")
        publish(storage, b"x.~2~/y", b"a folder")
        publish(storage, b"x", b"old")
        publish(storage, b"x", b"new", keep_old=True)
        expected = {b"x.~1~": b"the user's own", b"x.~2~/y": b"a folder", b"x.~3~": b"old", b"x": b"new"}
        assert everything(storage) == expected

    def test_keep_cuts_at_a_character(self, storage: Storage) -> None:
        """A kept name never passes 255 bytes, and no character is cut in half."""
        cases = (
            ("ä" * 127 + "b", "ä" * 125 + ".~1~"),
            ("b" + "ä" * 127, "b" + "ä" * 125 + ".~1~"),
            ("🎥" * 63, "🎥" * 62 + ".~1~"),
        )
        for number, (name, aside) in enumerate(cases):
            publish(storage, name.encode(), b"old", user=f"user{number}")
            publish(storage, name.encode(), b"new", user=f"user{number}", keep_old=True)
            assert set(everything(storage, f"user{number}")) == {name.encode(), aside.encode()}
        publish(storage, b"\xff" * 255, b"old")
        publish(storage, b"\xff" * 255, b"new", keep_old=True)
        assert set(everything(storage)) == {b"\xff" * 255, b"\xff" * 251 + b".~1~"}

    @pytest.mark.parametrize("keep_old", [True, False])
    def test_a_file_in_the_way_of_a_folder(self, storage: Storage, keep_old: bool) -> None:
        """An old file where a folder has to be gives way: kept beside it, or replaced."""
        publish(storage, b"a/b", b"old")
        publish(storage, b"a/b/c/d", b"new", keep_old=keep_old)
        kept = {b"a/b.~1~": b"old"} if keep_old else {}
        assert everything(storage) == {**kept, b"a/b/c/d": b"new"}

    @pytest.mark.parametrize("keep_old", [True, False])
    def test_a_folder_in_the_way_of_a_file(self, storage: Storage, keep_old: bool) -> None:
        """A folder that holds anything is never removed: the publication fails, and nothing has changed."""
        publish(storage, b"a/b/c", b"inside")
        session_id = upload(storage, b"new")
        with pytest.raises(PathConflict):
            storage.publish(session_id, Target("ann", b"a/b"), keep_old=keep_old)
        assert everything(storage) == {b"a/b/c": b"inside"}
        assert list(storage.partials()) == [session_id]

    def test_what_is_not_there(self, storage: Storage) -> None:
        """Questions about no file, a folder, or a path through a file are answered with None."""
        publish(storage, b"a/b", b"x")
        for path in (b"nothing", b"a", b"a/b/c", b"no/such/folder"):
            target = Target("ann", path)
            assert storage.published(target) is None
            assert storage.open_published(target) is None
            assert storage.set_attributes(target, Attributes(mode=0o600)) is None
            assert not storage.clone(target, upload(storage, b"x"))
        assert storage.published(Target("nobody", b"a/b")) is None

    def test_finish(self, storage: Storage) -> None:
        """After a crash behind the rename the file is found by its inode; another file, a folder, or none is not."""
        found = publish(storage, b"a/x", b"new")
        assert storage.finish(Target("ann", b"a/x"), found.inode) == found
        assert storage.finish(Target("ann", b"a/x"), found.inode + 1) is None
        for path in (b"a", b"a/y", b"b/x", b"a/x/y"):
            assert storage.finish(Target("ann", path), found.inode) is None

    def test_set_attributes(self, storage: Storage) -> None:
        """Time and mode change without the content, and the fingerprint returned is the one found afterwards."""
        before = publish(storage, b"x", b"hello")
        after = storage.set_attributes(Target("ann", b"x"), Attributes(modified_ns=-1_500_000_000, mode=0o400))
        assert after is not None
        assert after == storage.published(Target("ann", b"x"))
        assert (after.inode, after.size, after.mtime_ns) == (before.inode, 5, -1_500_000_000)
        assert content_of(storage, b"x") == b"hello"

    def test_a_reader_keeps_its_version(self, storage: Storage) -> None:
        """An open file is the version it was opened as, whatever is published over its name."""
        first = publish(storage, b"x", b"first")
        reader = storage.open_published(Target("ann", b"x"))
        assert reader is not None
        publish(storage, b"x", b"second")
        assert reader.read(0, 100) == b"first"
        assert reader.fingerprint().inode == first.inode
        reader.close()

    def test_a_clone_has_the_same_bytes_or_is_none(self, storage: Storage) -> None:
        """Where bytes can be shared the partial has them all; where not, it is as it was."""
        publish(storage, b"x", b"hello")
        storage.create("copy", 5)
        cloned = storage.clone(Target("ann", b"x"), "copy")
        with contextlib.closing(storage.open("copy")) as partial:
            assert partial.read(0, 10) == (b"hello" if cloned else bytes(5))

    def test_publications_at_once(self, storage: Storage) -> None:
        """Many threads publishing at one path and below each other's folders: nothing is lost, nothing is torn."""
        versions = [b"%04d" % number * 1000 for number in range(24)]
        sessions = [upload(storage, content) for content in versions]
        failures: list[BaseException] = []
        barrier = threading.Barrier(8)

        def work(number: int) -> None:
            barrier.wait()
            try:
                for index in range(number, 24, 8):
                    path = b"d/x" if index % 2 else b"d/sub%d/y" % index
                    storage.publish(sessions[index], Target("ann", path), keep_old=True)
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sorted(filter(None, everything(storage).values())) == versions


class FullContract:
    """No room."""

    def test_no_room_for_a_partial(self, small_storage: Storage) -> None:
        """A partial that does not fit is refused at once, leaves nothing, and takes nothing from the others."""
        publish(small_storage, b"x", b"precious")
        before = small_storage.free_bytes()
        with pytest.raises(StorageFull):
            small_storage.create("big", 64 * MEBIBYTE)
        assert list(small_storage.partials()) == []
        assert small_storage.free_bytes() == before
        assert everything(small_storage) == {b"x": b"precious"}
        small_storage.probe()

    def test_space_set_aside_is_no_longer_free(self, small_storage: Storage) -> None:
        """`create` says whether the space is taken off what is free, and discarding gives it back."""
        before = small_storage.free_bytes()
        allocated = small_storage.create("one", MEBIBYTE)
        taken = before - small_storage.free_bytes()
        assert taken >= MEBIBYTE if allocated else taken < MEBIBYTE
        with pytest.raises(StorageFull):
            small_storage.create("two", MEBIBYTE + MEBIBYTE // 2)
        small_storage.discard("one")
        assert small_storage.free_bytes() == before

    def test_full_is_not_ready(self, small_storage: Storage) -> None:
        """A full disk fails the probe, and passes it again when room is made."""
        small_storage.probe()
        small_storage.create("one", small_storage.free_bytes())
        with pytest.raises(StorageFull):
            small_storage.probe()
        small_storage.discard("one")
        small_storage.probe()
