"""Paths: which are allowed, how they travel, and how they are shown."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.protocol.paths import check_path, decode_path_bytes, encode_path, readable
from tests.protocol.shared import label, vectors

VECTORS = vectors("paths.json")


@pytest.mark.parametrize("case", VECTORS["good"], ids=label)
def test_a_good_path_is_taken_and_travels_as_the_vectors_say(case: dict[str, Any]) -> None:
    """Allowed as it is, as text where it is UTF-8, as bytes elsewhere."""
    path = base64.b64decode(case["pathBytes"])
    assert check_path(path) == path
    assert encode_path(path) == (case["path"], None if case["path"] is not None else case["pathBytes"])


@pytest.mark.parametrize("case", VECTORS["bad"], ids=lambda case: label(case["why"]))
def test_a_bad_path_is_a_value_error(case: dict[str, Any]) -> None:
    """What could leave the user's folder, or fits no file system, is refused."""
    with pytest.raises(ValueError):
        check_path(base64.b64decode(case["pathBytes"]))


@given(st.binary(max_size=300))
def test_any_bytes_travel_unchanged(path: bytes) -> None:
    """A name of any bytes comes back from `path` or `pathBytes`, and exactly one of the two is there."""
    text, encoded = encode_path(path)
    assert (text is None) != (encoded is None)
    assert (text.encode() if text is not None else decode_path_bytes(encoded or "")) == path


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b".", b"..", b"", b"x" * 256]), max_size=6).map(b"/".join))
def test_an_allowed_path_stays_inside(path: bytes) -> None:
    """Whatever is allowed is relative and has only parts that go down."""
    try:
        check_path(path)
    except ValueError:
        return
    assert all(part not in (b"", b".", b"..") and len(part) <= 255 for part in path.split(b"/"))
    assert b"\0" not in path


@given(st.text(max_size=40))
def test_path_bytes_of_any_text_are_read_or_a_value_error(text: str) -> None:
    """Text that is not base64 raises nothing but a ValueError."""
    try:
        assert isinstance(decode_path_bytes(text), bytes)
    except ValueError as error:
        assert str(error) == "pathBytes is not base64"


@given(st.binary(max_size=60))
def test_a_readable_path_can_always_be_printed(path: bytes) -> None:
    """What people see encodes as UTF-8, whatever the name."""
    assert readable(path).encode("utf-8") is not None


def test_bytes_that_are_not_utf8_are_shown_as_such() -> None:
    """A Latin-1 name shows its bytes."""
    assert readable(b"caf\xe9") == "caf\\xe9"
