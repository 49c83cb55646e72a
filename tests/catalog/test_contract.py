"""Every implementation passes the contract."""

from __future__ import annotations

from tests.catalog.contract import FileContract, GroupContract, RangeContract, SessionContract, UserContract


class TestSessions(SessionContract):
    """Sessions."""


class TestGroups(GroupContract):
    """Many sessions in one transaction."""


class TestRanges(RangeContract):
    """Stored ranges."""


class TestFiles(FileContract):
    """Published files."""


class TestUsers(UserContract):
    """Users and tokens."""
