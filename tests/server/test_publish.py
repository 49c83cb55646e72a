"""What the records say is believed only as long as the disk says the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from chunkyd.catalog.base import FileRecord, SessionState
from chunkyd.catalog.memory import MemoryCatalog
from chunkyd.clock import ManualClock
from chunkyd.protocol.paths import Target
from chunkyd.server.publish import Publisher
from chunkyd.storage.base import Attributes
from chunkyd.storage.memory import MemoryStorage
from tests.server.bench import sha
from tests.server.test_session import record
from tests.storage.helpers import publish

DATA, OTHER = b"what was sent", b"what is there"
TARGET = Target("u", b"f")


class Kept:
    """A published file, and its record."""

    def __init__(self) -> None:
        self.storage, self.catalog = MemoryStorage(), MemoryCatalog()
        self.publisher = Publisher(self.storage, self.catalog, ManualClock(), keep_old=False)
        self.file = FileRecord("u", b"f", sha(DATA), len(DATA), publish(self.storage, b"f", DATA, user="u"), 1, 0.0)
        self.session = replace(
            record(), user="u", target=b"f", file_hash=sha(DATA), total_bytes=len(DATA), sequence=2, modified_ns=7
        )
        self.know(self.file)

    def know(self, file: FileRecord) -> None:
        """This is what the records say."""
        self.catalog.put_file(file)


def test_rotten_bytes_are_not_kept_ones() -> None:
    """The file is what it was by its fingerprint, and its bytes are of another hash: nobody is told they are there."""
    kept = Kept()
    assert kept.publisher.read_kept(kept.file) == DATA
    assert kept.publisher.read_kept(replace(kept.file, file_hash=sha(OTHER))) is None


def test_a_renewal_of_what_is_there() -> None:
    """Only its time changes."""
    kept = Kept()
    assert kept.publisher._renewed(kept.session) is not None
    found = kept.storage.published(TARGET)
    assert found is not None
    assert found.mtime_ns == 7


def _replaced(kept: Kept) -> None:
    publish(kept.storage, b"f", OTHER, user="u")


def _newer(kept: Kept) -> None:
    kept.know(replace(kept.file, sequence=kept.session.sequence + 1))


def _another_version(kept: Kept) -> None:
    kept.know(replace(kept.file, file_hash=sha(OTHER)))


def _touched(kept: Kept) -> None:
    kept.storage.set_attributes(TARGET, Attributes(5, None))


@pytest.mark.parametrize("change", [_replaced, _newer, _another_version, _touched])
def test_no_renewal_of_what_has_changed_since(change: Callable[[Kept], None]) -> None:
    """By somebody else's hand, or by a later upload: then the client has to send its bytes."""
    kept = Kept()
    change(kept)
    before = kept.storage.published(TARGET)
    assert kept.publisher._renewed(kept.session) is None
    assert kept.storage.published(TARGET) == before


def _publishing(kept: Kept, modified_ns: int | None) -> None:
    """The session of the kept file, as a crash between its rename and its record leaves it."""
    added = kept.catalog.add_session(
        replace(
            kept.session,
            session_id="cut",
            sequence=0,
            state=SessionState.PUBLISHING,
            inode=kept.file.fingerprint.inode,
            modified_ns=modified_ns,
        )
    )
    kept.catalog.remove_file(TARGET)
    assert added.session_id == "cut"


def test_a_publication_that_was_cut_is_caught_up() -> None:
    """The file stands there as it was made: it is recorded."""
    kept = Kept()
    _publishing(kept, kept.file.fingerprint.mtime_ns)
    kept.publisher.publish("cut")
    found = kept.catalog.file(TARGET)
    assert found is not None
    assert found.file_hash == sha(DATA)


def test_an_inode_that_came_again_is_a_later_versions() -> None:
    """The record of the later one stays."""
    kept = Kept()
    _publishing(kept, None)
    later = replace(kept.file, file_hash=sha(OTHER), sequence=1000)
    kept.know(later)
    kept.publisher.publish("cut")
    assert kept.catalog.file(TARGET) == later
