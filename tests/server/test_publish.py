"""What the records say is believed only as long as the disk says the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from chunkyd.catalog.base import FileRecord
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
