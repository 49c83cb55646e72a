"""The hostile suite of the catalog contract: every implementation passes all of it."""

from __future__ import annotations

import threading

import pytest
from msgspec.structs import replace

from chunkyd.catalog.base import ACTIVE_STATES, Catalog, SessionState, StoredRange, TokenRecord, TooLate, Wish
from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target
from tests.catalog.helpers import HASH, file, session

FAR = 2**63 - 1


class SessionContract:
    """Sessions."""

    def test_a_session_comes_back_as_it_was(self, catalog: Catalog) -> None:
        """Every field survives: bytes that are not UTF-8, numbers beyond 63 bits, and the absence of each."""
        full = session(
            total_bytes=FAR,
            target=b"\xff\x00\n",
            modified_ns=253_402_300_799 * 10**9,
            mode=0o777,
            reserved=True,
            idempotency=b"\x00\xff",
            inode=2**64 - 1,
            copy_of=b"\xfe",
            file_version="v1.x",
        )
        for record in (full, session("two")):
            added = catalog.add_session(record)
            assert added.sequence > 0
            assert catalog.session(record.session_id) == added
            for field in record.__struct_fields__:
                if field != "sequence":
                    assert getattr(added, field) == getattr(record, field), field
        assert catalog.session("none") is None

    def test_sequences_grow_and_never_return(self, catalog: Catalog) -> None:
        """A later session has a greater sequence, also after every session before it was deleted."""
        seen = []
        for number in range(20):
            seen.append(catalog.add_session(session(f"s{number}")).sequence)
            if number % 3:
                catalog.end(f"s{number}")
        assert seen == sorted(set(seen))

    def test_an_id_is_taken_once(self, catalog: Catalog) -> None:
        """A second session under one ID is refused, and the first stays."""
        first = catalog.add_session(session())
        with pytest.raises(ValueError):
            catalog.add_session(session(user="bob"))
        assert catalog.session("one") == first

    def test_idempotency(self, catalog: Catalog) -> None:
        """The same request again is the same session; another key, or none, is another."""
        first = catalog.add_session(session("one", idempotency=b"k"))
        assert catalog.add_session(session("two", idempotency=b"k")) == first
        assert catalog.session("two") is None
        assert catalog.add_session(session("other", idempotency=b"l")).session_id == "other"
        assert catalog.add_session(session("plain")).session_id == "plain"

    def test_a_used_up_key(self, catalog: Catalog) -> None:
        """Once its session has expired or is ended a key opens nothing, until it is forgotten, after its tombstone."""
        catalog.add_session(session("expired", idempotency=b"k"))
        catalog.expire("expired", 900.0)
        catalog.add_session(session("ended", idempotency=b"l", expires_at=800.0))
        catalog.end("ended")
        catalog.end("expired")
        for key in (b"k", b"l"):
            with pytest.raises(TooLate):
                catalog.add_session(session("new", idempotency=key))
        assert list(catalog.sessions(tombstones=True)) == []
        catalog.shift_deadlines(10.0)
        assert [catalog.purge_wishes(now, 10) for now in (809.0, 810.0, 909.0, 910.0, 1e9)] == [0, 1, 0, 1, 0]
        assert catalog.add_session(session("new", idempotency=b"k")).session_id == "new"

    def test_a_session_that_never_was(self, catalog: Catalog) -> None:
        """Forgotten instead of ended, its key is as it was."""
        catalog.add_session(session("one", idempotency=b"k"))
        catalog.forget("one")
        assert catalog.session("one") is None
        assert catalog.add_session(session("two", idempotency=b"k")).session_id == "two"

    def test_a_key_of_many(self, catalog: Catalog) -> None:
        """A group's key is used up with it, and only with it: what failed has used up nothing."""
        catalog.add_session(session("taken"))
        with pytest.raises(ValueError):
            catalog.add_sessions([session("one"), session("taken")], key=b"k", until=500.0)
        assert len(catalog.add_sessions([session("one"), session("two")], key=b"k", until=500.0)) == 2
        with pytest.raises(TooLate):
            catalog.add_sessions([session("three")], key=b"k", until=600.0)
        assert catalog.session("three") is None
        assert catalog.purge_wishes(500.0, 1) == 1
        assert len(catalog.add_sessions([session("three")], key=b"k", until=600.0)) == 1

    def test_wishes(self, catalog: Catalog) -> None:
        """Of one subject the greatest order counts, whichever comes first; the same again is no older one."""
        for name, order in (("a", 5), ("b", 7), ("c", 7)):
            catalog.add_session(session(name, expires_at=800.0), Wish(b"s", order))
        with pytest.raises(TooLate):
            catalog.add_session(session("d"), Wish(b"s", 6))
        with pytest.raises(TooLate):
            catalog.add_sessions([session("d"), session("e")], wishes=[Wish(b"t", 1), Wish(b"s", 6)], until=900.0)
        assert catalog.session("d") is None
        assert catalog.add_session(session("d"), Wish(b"other", 6)).session_id == "d"
        catalog.add_sessions([session("e")], wishes=[Wish(b"t", 0), Wish(b"s", 8)], until=900.0)
        for subject, order in ((b"s", 7), (b"other", 5)):
            with pytest.raises(TooLate):
                catalog.add_session(session("f"), Wish(subject, order))
        while catalog.purge_wishes(1e9, 10):
            pass
        assert catalog.add_session(session("f"), Wish(b"s", 1)).session_id == "f"

    def test_the_same_initiate_is_not_too_late(self, catalog: Catalog) -> None:
        """Repeated after a newer wish it gets the session it has, which stays the older one."""
        first = catalog.add_session(session("one", idempotency=b"k"), Wish(b"s", 1))
        second = catalog.add_session(session("two", idempotency=b"l"), Wish(b"s", 2))
        assert catalog.add_session(session("three", idempotency=b"k"), Wish(b"s", 1)) == first
        assert first.sequence < second.sequence

    def test_keys_are_forgotten_a_few_at_a_time(self, catalog: Catalog) -> None:
        """The oldest first, no more than asked for."""
        for number in range(10):
            catalog.add_sessions([], key=bytes([number]), until=float(number))
        assert [catalog.purge_wishes(7.0, 5) for _ in range(3)] == [5, 3, 0]

    def test_idempotency_among_threads(self, catalog: Catalog) -> None:
        """Of many equal requests at once exactly one makes a session, and all get it."""
        found: list[str] = []

        def work(number: int) -> None:
            found.append(catalog.add_session(session(f"s{number}", idempotency=b"k")).session_id)

        _in_threads(work, 8)
        assert len(found) == 8
        assert len(set(found)) == 1
        assert len(list(catalog.sessions())) == 1

    def test_listing(self, catalog: Catalog) -> None:
        """Sessions come in order of sequence, by user where asked, tombstones only where asked; more than a page."""
        names = [f"s{number:04d}" for number in range(1100)]
        for name in names:
            catalog.add_session(session(name, user="ann" if name < "s0600" else "bob"))
        catalog.expire("s0001", 1.0)
        assert [record.session_id for record in catalog.sessions()] == [name for name in names if name != "s0001"]
        assert [record.session_id for record in catalog.sessions(tombstones=True)] == names
        assert [record.session_id for record in catalog.sessions(user="bob")] == names[600:]
        assert list(catalog.sessions(user="carol")) == []

    def test_changing_while_listing(self, catalog: Catalog) -> None:
        """Sessions may be ended while they are listed: the janitor does just that."""
        for number in range(700):
            catalog.add_session(session(f"s{number}"))
        for record in catalog.sessions():
            catalog.end(record.session_id)
        assert list(catalog.sessions(tombstones=True)) == []

    def test_a_late_hash(self, catalog: Catalog) -> None:
        """The first hash declared counts for ever, and nothing else of the session changes by it."""
        added = catalog.add_session(session(file_hash="", file_version="v1.x"))
        catalog.record_stored([StoredRange("one", 0, 10, 600.0)])
        assert catalog.declare("one", HASH) == HASH
        assert catalog.declare("one", HASH) == HASH
        assert catalog.declare("one", "cd" * 32) == HASH
        assert catalog.session("one") == replace(added, file_hash=HASH, expires_at=600.0)
        assert catalog.stored("one") == [(0, 10)]
        assert catalog.session("one").key == "v1.x"
        catalog.add_session(session("named"))
        assert catalog.declare("named", "cd" * 32) == HASH

    def test_a_late_hash_of_no_session(self, catalog: Catalog) -> None:
        """What is over, or never was, gets no hash any more."""
        for number, end in enumerate((SessionState.COMPLETE, SessionState.DEAD, SessionState.EXPIRED)):
            name = f"s{number}"
            catalog.add_session(session(name, file_hash="", file_version="v1.x"))
            catalog.move(name, ACTIVE_STATES, end)
            assert catalog.declare(name, HASH) is None
            assert catalog.session(name).file_hash == ""
        assert catalog.declare("none", HASH) is None

    def test_one_of_many_hashes_counts(self, catalog: Catalog) -> None:
        """Of many that are declared at once one is recorded, and all are told which."""
        catalog.add_session(session(file_hash="", file_version="v1.x"))
        told: list[str | None] = []
        hashes = [f"{number:064x}" for number in range(8)]
        threads = [threading.Thread(target=lambda one=one: told.append(catalog.declare("one", one))) for one in hashes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(told) == {catalog.session("one").file_hash} and len(told) == 8

    def test_moves(self, catalog: Catalog) -> None:
        """A move happens from the states named and from no other; the inode stays until another is given."""
        catalog.add_session(session())
        assert not catalog.move("one", [SessionState.COPYING], SessionState.PUBLISHING)
        assert catalog.move("one", [SessionState.RECEIVING], SessionState.PUBLISHING, inode=2**64 - 1)
        assert not catalog.move("one", [SessionState.RECEIVING], SessionState.DEAD)
        assert not catalog.move("none", ACTIVE_STATES, SessionState.DEAD)
        assert not catalog.move("one", [], SessionState.DEAD)
        assert catalog.move("one", iter(ACTIVE_STATES), SessionState.RECEIVING)
        found = catalog.session("one")
        assert found is not None
        assert (found.state, found.inode) == (SessionState.RECEIVING, 2**64 - 1)

    def test_one_of_many_movers_wins(self, catalog: Catalog) -> None:
        """Of many threads that make one move, one succeeds."""
        catalog.add_session(session())
        won: list[bool] = []
        _in_threads(
            lambda _: won.append(catalog.move("one", [SessionState.RECEIVING], SessionState.PUBLISHING, inode=1)), 8
        )
        assert sorted(won) == [False] * 7 + [True]

    def test_expiry(self, catalog: Catalog) -> None:
        """What is due comes the longest due first, tombstones too; a tombstone keeps nothing but its owner."""
        for number, deadline in enumerate([30.0, 10.0, 20.0, 40.0]):
            catalog.add_session(session(f"s{number}", expires_at=deadline))
        catalog.record_stored([StoredRange("s1", 0, 10, 10.0)])
        assert [record.session_id for record in catalog.due(30.0, 10)] == ["s1", "s2", "s0"]
        assert [record.session_id for record in catalog.due(30.0, 2)] == ["s1", "s2"]
        catalog.expire("s1", 25.0)
        catalog.expire("none", 25.0)
        found = catalog.session("s1")
        assert found is not None
        assert (found.state, found.expires_at, found.user) == (SessionState.EXPIRED, 25.0, "ann")
        assert catalog.stored("s1") == []
        assert [record.session_id for record in catalog.due(26.0, 10)] == ["s2", "s1"]
        assert catalog.due(5.0, 10) == []

    def test_a_step_of_the_clock(self, catalog: Catalog) -> None:
        """Every deadline moves by the step, forward and back, and so does the moment from which an age counts."""
        catalog.add_session(session("one", created=10.0, expires_at=100.0))
        catalog.add_session(session("two", created=20.0, expires_at=200.0))
        catalog.shift_deadlines(-150.0)
        assert [(record.created, record.expires_at) for record in catalog.sessions()] == [
            (-140.0, -50.0),
            (-130.0, 50.0),
        ]
        catalog.shift_deadlines(150.0)
        assert [(record.created, record.expires_at) for record in catalog.sessions()] == [(10.0, 100.0), (20.0, 200.0)]

    def test_what_is_being_published_does_not_expire(self, catalog: Catalog) -> None:
        """Until its outcome is recorded it stays as it is, ranges and all; afterwards it expires like any other."""
        catalog.add_session(session())
        catalog.record_stored([StoredRange("one", 0, 10, 10.0)])
        catalog.move("one", ACTIVE_STATES, SessionState.PUBLISHING, inode=5)
        assert not catalog.expire("one", 900.0)
        found = catalog.session("one")
        assert found is not None and found.state is SessionState.PUBLISHING and catalog.stored("one") == [(0, 10)]
        catalog.complete("one", None)
        assert catalog.expire("one", 900.0) and catalog.expire("none", 900.0)

    def test_the_end(self, catalog: Catalog) -> None:
        """An ended session leaves no trace, and its ID's ranges do not come back with another session."""
        catalog.add_session(session())
        catalog.record_stored([StoredRange("one", 0, 10, 10.0)])
        catalog.end("one")
        catalog.end("one")
        assert catalog.session("one") is None
        assert catalog.stored("one") == []
        assert catalog.usage("ann") == 0
        catalog.add_session(session())
        assert catalog.stored("one") == []


class GroupContract:
    """Many sessions in one transaction."""

    def test_many_are_added_in_order(self, catalog: Catalog) -> None:
        """Each gets the next sequence and is found as it was given back."""
        records = [session(f"s{number}", target=b"f%d" % number) for number in range(50)]
        added = catalog.add_sessions(records)
        assert [record.session_id for record in added] == [record.session_id for record in records]
        assert [record.sequence for record in added] == sorted({record.sequence for record in added})
        assert [catalog.session(record.session_id) for record in records] == added
        assert catalog.add_sessions([]) == []

    def test_a_taken_id_adds_none_of_them(self, catalog: Catalog) -> None:
        """All or nothing: one ID that is there already leaves the others unrecorded."""
        catalog.add_session(session("taken"))
        with pytest.raises(ValueError):
            catalog.add_sessions([session("new"), session("taken")])
        assert catalog.session("new") is None

    def test_many_are_completed_and_gone(self, catalog: Catalog) -> None:
        """Files recorded in order, the later one wins a path and what is in its way; no trace of the sessions stays."""
        names = ("one", "two", "three")
        added = catalog.add_sessions([session(name, state=SessionState.PUBLISHING, inode=7) for name in names])
        first, second, third = (record.sequence for record in added)
        catalog.complete_all(
            [
                ("one", file(b"a", sequence=first)),
                ("two", file(b"a/x", sequence=second)),
                ("three", file(b"b", sequence=third)),
            ]
        )
        assert [record.path for record in catalog.files()] == [b"a/x", b"b"]
        assert [catalog.session(name) for name in names] == [None] * 3
        assert catalog.usage("ann") == 2000

    def test_many_completed_are_as_if_one_by_one(self, catalog: Catalog) -> None:
        """Hundreds at once: the same user's files at their paths, above and below them give way; all is counted."""
        deep = b"/".join([b"deep"] * 40)
        for path in (b"at", b"above", b"below/a/b", b"near.", b"near0", deep):
            catalog.put_file(file(path, size=1))
        catalog.put_file(file(b"at", user="bob", size=1))
        paths = [b"at", b"above/x", b"below", b"near", deep + b"/x", *(b"n/%d" % number for number in range(250))]
        sessions = catalog.add_sessions([session(f"s{number}") for number in range(len(paths))])
        catalog.complete_all(
            [
                (added.session_id, file(path, size=10, sequence=added.sequence))
                for added, path in zip(sessions, paths, strict=True)
            ]
        )
        assert [record.path for record in catalog.files("ann")] == sorted([*paths, b"near.", b"near0"])
        assert catalog.usage("ann") == 10 * len(paths) + 2
        assert [record.path for record in catalog.files("bob")] == [b"at"]
        assert catalog.usage("bob") == 1

    def test_many_completed_of_two_users(self, catalog: Catalog) -> None:
        """Each has his own bytes, and nobody's path is in the way of another's."""
        users = ["ann", "bob"]
        catalog.add_sessions([session(user, user=user) for user in users])
        catalog.complete_all([("ann", file(b"a/x", user="ann", size=3)), ("bob", file(b"a", user="bob", size=4))])
        assert [(record.user, record.path) for record in catalog.files()] == [("ann", b"a/x"), ("bob", b"a")]
        assert [catalog.usage(user) for user in users] == [3, 4]

    def test_a_session_that_ended_leaves_no_file(self, catalog: Catalog) -> None:
        """Unknown, expired and dead sessions publish nothing, and stay as they are."""
        catalog.add_sessions([session("expired"), session("dead"), session("good")])
        catalog.expire("expired", 900.0)
        catalog.move("dead", ACTIVE_STATES, SessionState.DEAD)
        catalog.complete_all([(name, file(name.encode())) for name in ("unknown", "expired", "dead", "good")])
        assert [record.path for record in catalog.files()] == [b"good"]
        expired, dead = catalog.session("expired"), catalog.session("dead")
        assert expired is not None and expired.state is SessionState.EXPIRED
        assert dead is not None and dead.state is SessionState.DEAD


class RangeContract:
    """Stored ranges."""

    def test_merging(self, catalog: Catalog) -> None:
        """Ranges that overlap or touch are one; the deadline is the last one given."""
        catalog.add_session(session(total_bytes=FAR))
        for start, stop in ((10, 20), (30, 40), (50, 60), (70, 80)):
            catalog.record_stored([StoredRange("one", start, stop, 600.0)])
        catalog.record_stored([StoredRange("one", 20, 25, 601.0), StoredRange("one", 29, 51, 602.0)])
        assert catalog.stored("one") == [(10, 25), (29, 60), (70, 80)]
        catalog.record_stored([StoredRange("one", 0, FAR, 603.0)])
        assert catalog.stored("one") == [(0, FAR)]
        found = catalog.session("one")
        assert found is not None
        assert found.expires_at == 603.0

    def test_a_batch_of_many_sessions(self, catalog: Catalog) -> None:
        """A batch records all its sessions, and skips those that are unknown or can never publish."""
        for name in ("one", "two", "dead", "expired", "complete"):
            catalog.add_session(session(name))
        catalog.move("dead", ACTIVE_STATES, SessionState.DEAD)
        catalog.expire("expired", 700.0)
        catalog.complete("complete", None)
        names = ("one", "none", "dead", "expired", "complete", "two")
        catalog.record_stored(StoredRange(name, 5, 10, 999.0) for name in names)
        catalog.record_stored([])
        assert {name: catalog.stored(name) for name in names} == {
            name: [(5, 10)] if name in ("one", "two") else [] for name in names
        }
        deadlines = {record.session_id: record.expires_at for record in catalog.sessions(tombstones=True)}
        assert deadlines == {"one": 999.0, "two": 999.0, "dead": 500.0, "expired": 700.0, "complete": 500.0}

    def test_the_dead_forget(self, catalog: Catalog) -> None:
        """A session whose file turned out wrong keeps no range."""
        catalog.add_session(session())
        catalog.record_stored([StoredRange("one", 0, 10, 10.0)])
        catalog.move("one", ACTIVE_STATES, SessionState.DEAD)
        assert catalog.stored("one") == []

    def test_threads_record_at_once(self, catalog: Catalog) -> None:
        """Ranges recorded by many threads for one session are all there, merged."""
        catalog.add_session(session(total_bytes=4000))

        def work(number: int) -> None:
            for start in range(number * 10, 4000, 80):
                catalog.record_stored([StoredRange("one", start, start + 10, 600.0)])

        _in_threads(work, 8)
        assert catalog.stored("one") == [(0, 4000)]


class FileContract:
    """Published files."""

    def test_a_file_comes_back_as_it_was(self, catalog: Catalog) -> None:
        """Every field survives: names that are not UTF-8, inodes and devices of 64 bits, times before 1970."""
        record = file(b"\xff\x00", size=FAR, fingerprint=Fingerprint(2**64 - 1, 2**64 - 1, FAR, -5, 253 * 10**18))
        catalog.put_file(record)
        assert catalog.file(Target("ann", b"\xff\x00")) == record
        assert list(catalog.files()) == [record]
        assert catalog.file(Target("bob", b"\xff\x00")) is None

    def test_what_is_in_the_way_goes(self, catalog: Catalog) -> None:
        """A file takes the place of the one at its path, of those below it, and of one at any parent; of no other."""
        neighbours = [b"a", b"a.", b"a/b.c", b"a/b/cc", b"a/b0", b"a0", b"\xff"]
        for path in (b"a/b/c/d", b"a/b/c/e/f", b"a/b/c.", *neighbours[1:]):
            catalog.put_file(file(path, sequence=7))
        catalog.put_file(file(b"a/b/c/d", user="bob", sequence=8))
        assert catalog.newest_sequence_in_the_way(Target("ann", b"a/b/c")) == 7
        catalog.put_file(file(b"a/b/c", sequence=9))
        left = [record.path for record in catalog.files("ann")]
        assert left == sorted([b"a/b/c", b"a/b/c.", *neighbours[1:]])
        catalog.put_file(file(b"a/b/c/d", sequence=10))
        left = [record.path for record in catalog.files("ann")]
        assert left == sorted([b"a/b/c/d", b"a/b/c.", *neighbours[1:]])
        assert [record.path for record in catalog.files("bob")] == [b"a/b/c/d"]

    def test_the_newest_in_the_way(self, catalog: Catalog) -> None:
        """At the path, above it, below it: the greatest sequence counts; a neighbour's or another user's does not."""
        assert catalog.newest_sequence_in_the_way(Target("ann", b"a/b")) == 0
        for path, sequence in ((b"a/b/x", 3), (b"a/b/y", 5), (b"a/bb", 9), (b"a/b-", 9), (b"c", 4)):
            catalog.put_file(file(path, sequence=sequence))
        catalog.put_file(file(b"a/b", user="bob", sequence=8))
        asked = {
            path: catalog.newest_sequence_in_the_way(Target("ann", path)) for path in (b"a/b", b"c/d/e", b"c", b"d")
        }
        assert asked == {b"a/b": 5, b"c/d/e": 4, b"c": 4, b"d": 0}
        deep = b"/".join([b"d"] * 2048)
        catalog.put_file(file(b"d", sequence=6))
        assert catalog.newest_sequence_in_the_way(Target("ann", deep)) == 6

    def test_known_hashes(self, catalog: Catalog) -> None:
        """Those that stand in a record of this user, of any number that is asked for."""
        catalog.put_file(file(b"a", file_hash="1" * 64))
        catalog.put_file(file(b"b", file_hash="2" * 64, user="bob"))
        asked = [f"{number:064}" for number in range(1200)]
        assert catalog.known_hashes("ann", [*asked, "1" * 64, "2" * 64]) == {"1" * 64}
        assert catalog.known_hashes("ann", []) == set()

    def test_versions(self, catalog: Catalog) -> None:
        """Where a user has a version: newest first, no more than asked, never another user's, size or hash."""
        for number in range(10):
            catalog.put_file(file(b"%d" % number, sequence=number))
        catalog.put_file(file(b"bob's", user="bob"))
        catalog.put_file(file(b"other size", size=1001))
        catalog.put_file(file(b"other hash", file_hash="cd" * 32))
        found = catalog.versions("ann", HASH, 1000)
        assert [record.sequence for record in found] == [9, 8, 7, 6, 5, 4, 3, 2]
        assert len(catalog.versions("ann", HASH, 1000, limit=3)) == 3
        assert catalog.versions("carol", HASH, 1000) == []

    def test_listing(self, catalog: Catalog) -> None:
        """Files come by user and path, by more than a page, and may be removed meanwhile."""
        paths = sorted(b"%d/\xff" % number for number in range(1100))
        for path in paths:
            catalog.put_file(file(path))
            catalog.put_file(file(path, user="äbob"))
        assert [(record.user, record.path) for record in catalog.files()] == [
            (user, path) for user in ("ann", "äbob") for path in paths
        ]
        for record in catalog.files("ann"):
            catalog.remove_file(Target("ann", record.path))
        catalog.remove_file(Target("ann", b"nothing"))
        assert list(catalog.files("ann")) == []
        assert len(list(catalog.files())) == 1100

    def test_completion(self, catalog: Catalog) -> None:
        """Complete and the file's record are one step; from a state that cannot publish, neither happens."""
        catalog.add_session(session())
        catalog.record_stored([StoredRange("one", 0, 1000, 600.0)])
        assert catalog.complete("one", file(sequence=1))
        found = catalog.session("one")
        assert found is not None
        assert (found.state, catalog.stored("one")) == (SessionState.COMPLETE, [])
        assert not catalog.complete("one", file(b"again"))
        assert not catalog.complete("none", file(b"none"))
        catalog.add_session(session("two"))
        catalog.expire("two", 900.0)
        assert not catalog.complete("two", file(b"two"))
        catalog.add_session(session("three"))
        assert catalog.complete("three", None)
        assert [record.path for record in catalog.files()] == [b"a/x"]
        catalog.end("one")
        assert [record.path for record in catalog.files()] == [b"a/x"]

    def test_usage(self, catalog: Catalog) -> None:
        """A user's files and unfinished sessions count, once each, however often they change; nobody else's do."""
        assert catalog.usage("ann") == 0
        catalog.add_session(session("one", total_bytes=100))
        catalog.add_session(session("two", total_bytes=30))
        catalog.add_session(session("bob", user="bob", total_bytes=7))
        assert catalog.usage("ann") == 130
        catalog.complete("one", file(b"a", size=100))
        assert catalog.usage("ann") == 130
        catalog.move("two", ACTIVE_STATES, SessionState.DEAD)
        assert catalog.usage("ann") == 100
        catalog.put_file(file(b"a", size=60))
        catalog.put_file(file(b"b/c", size=5))
        catalog.put_file(file(b"b/d", size=6))
        assert catalog.usage("ann") == 71
        catalog.put_file(file(b"b", size=1))
        catalog.remove_file(Target("ann", b"a"))
        catalog.remove_file(Target("ann", b"a"))
        assert (catalog.usage("ann"), catalog.usage("bob")) == (1, 7)

    def test_only_the_record_that_is_meant_is_forgotten(self, catalog: Catalog) -> None:
        """Where a sequence is named, one that came after it stays."""
        catalog.put_file(file(b"a", size=5, sequence=2))
        catalog.remove_file(Target("ann", b"a"), 1)
        assert catalog.usage("ann") == 5
        catalog.remove_file(Target("ann", b"a"), 2)
        assert (catalog.usage("ann"), catalog.file(Target("ann", b"a"))) == (0, None)

    def test_a_new_catalog_knows_no_files(self, catalog: Catalog) -> None:
        """It says so until it is told that all of them were recorded, however often."""
        catalog.put_file(file())
        assert not catalog.knows_files()
        for _ in range(2):
            catalog.set_files_known()
            assert catalog.knows_files()

    def test_usage_beyond_63_bits(self, catalog: Catalog) -> None:
        """What clients announce may add up to more than a database's integers hold."""
        for number in range(3):
            catalog.add_session(session(f"s{number}", total_bytes=FAR))
        assert catalog.usage("ann") == 3 * FAR


class UserContract:
    """Users and tokens."""

    def test_users(self, catalog: Catalog) -> None:
        """A name is taken once; a user that is removed takes the tokens along and leaves files and sessions."""
        assert catalog.add_user("bob", 1.0)
        assert catalog.add_user("ann", 2.0)
        assert not catalog.add_user("bob", 3.0)
        assert catalog.users() == ["ann", "bob"]
        catalog.add_token(TokenRecord("t1", "ann", b"\x00" * 32, 5.0))
        catalog.put_file(file())
        catalog.add_session(session())
        assert catalog.remove_user("ann")
        assert not catalog.remove_user("ann")
        assert (catalog.users(), catalog.tokens(), catalog.token_user(b"\x00" * 32)) == (["bob"], [], None)
        assert len(list(catalog.files())) == len(list(catalog.sessions())) == 1

    def test_tokens(self, catalog: Catalog) -> None:
        """Tokens belong to users that exist, are found by their digest, and are gone when they are revoked."""
        catalog.add_user("ann", 1.0)
        catalog.add_user("bob", 1.0)
        second = TokenRecord("t2", "ann", b"\xff" * 32, 6.0, "laptop")
        first = TokenRecord("t1", "bob", b"\x01" * 32, 5.0)
        catalog.add_token(second)
        catalog.add_token(first)
        with pytest.raises(LookupError):
            catalog.add_token(TokenRecord("t3", "carol", b"\x03" * 32, 7.0))
        for taken in (TokenRecord("t2", "ann", b"\x04" * 32, 7.0), TokenRecord("t4", "bob", b"\xff" * 32, 7.0)):
            with pytest.raises(ValueError):
                catalog.add_token(taken)
        assert catalog.tokens() == [first, second]
        assert catalog.tokens("ann") == [second]
        assert catalog.token_user(b"\xff" * 32) == "ann"
        assert catalog.token_user(b"\x03" * 32) is None
        assert catalog.revoke_token("t2")
        assert not catalog.revoke_token("t2")
        assert catalog.token_user(b"\xff" * 32) is None
        catalog.probe()


def _in_threads(work: object, count: int) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)  # type: ignore[operator]
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
