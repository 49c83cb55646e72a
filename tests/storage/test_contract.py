"""Every implementation passes the contract."""

from __future__ import annotations

from tests.storage.contract import FullContract, PartialContract, PublishContract
from tests.storage.group_contract import FullGroupContract, GroupContract


class TestPartials(PartialContract):
    """Files in progress."""


class TestPublish(PublishContract):
    """What users see."""


class TestFull(FullContract):
    """No room."""


class TestGroups(GroupContract):
    """Many small files together."""


class TestFullGroups(FullGroupContract):
    """Many small files, and no room for all."""
