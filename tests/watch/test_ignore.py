"""Which files are left out."""

from __future__ import annotations

import pytest

from chunkyd.errors import ConfigError
from chunkyd.watch.ignore import Ignore

TEMPORARIES = [
    b"film.mov.part",
    b"a/b/Unconfirmed 1.crdownload",
    b"notes.txt~",
    b".notes.txt.swp",
    b"d/.~lock.table.ods#",
    b"#notes.txt#",
    b".#notes.txt",
    b".goutputstream-ABC",
    b".chunkyd-sent-7",
    b"d/.chunkyd-moving-7",
]


@pytest.mark.parametrize("path", TEMPORARIES)
def test_temporaries_are_left_out_by_default(path: bytes) -> None:
    """What editors, browsers and the daemon itself lay down on their way is no file to send."""
    assert Ignore((), ()).file(path)


@pytest.mark.parametrize("path", [b"film.mov", b"part", b"a.swp", b"a/#b", b"\xff\xfe", b"x.part.mov", b".hidden"])
def test_all_else_is_sent(path: bytes) -> None:
    """The defaults take nothing that people keep."""
    assert not Ignore((), ()).file(path)


def test_a_default_is_taken_back() -> None:
    """The last pattern that matches decides, so a user's `!` takes a default back, for that pattern alone."""
    ignore = Ignore((), ("!*.part",))
    assert not ignore.file(b"a.part")
    assert ignore.file(b"a~")


def test_the_daemons_own_names_cannot_be_taken_back() -> None:
    """No pattern makes the daemon send what it is about to delete or move."""
    ignore = Ignore((), ("!.chunkyd-*",))
    assert ignore.file(b"d/.chunkyd-sent-7")
    assert ignore.directory(b".chunkyd-x")


def test_include_and_exclude() -> None:
    """With `include` only what matches it is sent, at any depth, and `exclude` still counts."""
    ignore = Ignore(("*.mov", "/raw/*.dat"), ("draft-*",))
    assert not ignore.file(b"a/b/film.mov")
    assert not ignore.file(b"raw/1.dat")
    assert ignore.file(b"a/raw/1.dat")
    assert ignore.file(b"a/film.txt")
    assert ignore.file(b"a/draft-film.mov")


def test_patterns_are_anchored_at_the_root() -> None:
    """A leading slash means the watched folder's top, not the machine's."""
    ignore = Ignore((), ("/top.txt", "cache/", "a/**/z"))
    assert ignore.file(b"top.txt")
    assert not ignore.file(b"d/top.txt")
    assert ignore.directory(b"x/cache")
    assert not ignore.file(b"x/cache")
    assert ignore.file(b"a/b/c/z")


@pytest.mark.parametrize("path", [b"new\nline/x.part", b"x\ny.part", b"\xff\xfe/x.part", "é/☃.part".encode()])
def test_names_of_any_bytes_are_matched(path: bytes) -> None:
    """Newlines and bytes that are not UTF-8 hide no file from a pattern."""
    assert Ignore((), ()).file(path)


def test_a_newline_at_the_end_is_part_of_the_name() -> None:
    """`x.part` and a newline is another name than `x.part`."""
    assert not Ignore((), ()).file(b"x.part\n")


def test_a_hash_is_a_name() -> None:
    """A pattern that begins with # is no comment: it stands in a list, not in a file."""
    assert Ignore((), ("#recycle",)).directory(b"#recycle")
    assert Ignore(("#*.mov",), ()).file(b"a.mov")


def test_a_bad_pattern_is_a_bad_configuration() -> None:
    """A pattern that cannot be understood is refused, and named."""
    with pytest.raises(ConfigError, match="pattern"):
        Ignore((), ("!",))
