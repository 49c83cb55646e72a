"""Every implementation passes the contract."""

from __future__ import annotations

from tests.storage.contract import FullContract, PartialContract, PublishContract


class TestPartials(PartialContract):
    """Files in progress."""


class TestPublish(PublishContract):
    """What users see."""


class TestFull(FullContract):
    """No room."""
