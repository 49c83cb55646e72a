"""Content-Range, Content-Digest and file hashes, from the shared vectors and from hypothesis."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.protocol.digests import (
    CRC32C,
    DIGESTS,
    SHA256,
    Checker,
    content_digest,
    format_content_digest,
    is_file_hash,
    parse_content_digest,
)
from chunkyd.protocol.messages import MAX_TOTAL_BYTES, format_content_range, parse_content_range
from tests.protocol.shared import label, vectors

RANGES = vectors("content-range.json")
DIGEST = vectors("content-digest.json")
HASHES = vectors("file-hashes.json")


@pytest.mark.parametrize("case", RANGES["good"], ids=label)
def test_a_content_range_is_read_and_written_as_the_vectors_say(case: dict[str, Any]) -> None:
    """Inclusive on the wire, half-open inside, both ways."""
    first, last, total = int(case["first"]), int(case["last"]), int(case["total"])
    assert parse_content_range(case["header"]) == ((first, last + 1), total)
    if case["canonical"]:
        assert format_content_range((first, last + 1), total) == case["header"]


@pytest.mark.parametrize("header", RANGES["bad"], ids=label)
def test_a_bad_content_range_is_a_value_error(header: str) -> None:
    """Stars, other units, signs, other digits and line breaks are refused."""
    with pytest.raises(ValueError):
        parse_content_range(header)


@pytest.mark.parametrize("case", RANGES["outOfBounds"], ids=label)
def test_a_range_outside_its_file_is_well_formed(case: dict[str, Any]) -> None:
    """A range outside the session's file parses, and is told by its stop or its total."""
    (_, stop), total = parse_content_range(case["header"])
    assert total != int(case["total"]) or stop > total


@given(st.integers(1, MAX_TOTAL_BYTES), st.data())
def test_content_ranges_come_back(total: int, data: st.DataObject) -> None:
    """Every chunk of every file survives the way to the header and back."""
    first = data.draw(st.integers(0, total - 1))
    last = data.draw(st.integers(first, total - 1))
    assert parse_content_range(format_content_range((first, last + 1), total)) == ((first, last + 1), total)


@given(st.text(max_size=60) | st.text("bytes 0123456789-/*", max_size=30))
def test_any_content_range_is_read_or_a_value_error(header: str) -> None:
    """Nothing but a ValueError, or a range that is not empty."""
    try:
        (start, stop), _ = parse_content_range(header)
    except ValueError:
        return
    assert 0 <= start < stop


@pytest.mark.parametrize("case", DIGEST["bodies"], ids=label)
def test_digests_and_their_headers_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    """crc32c (big-endian) and sha-256 of known bytes, written and read."""
    data = base64.b64decode(case["bytes"])
    expected = {CRC32C: bytes.fromhex(case["crc32c"]), SHA256: bytes.fromhex(case["sha256"])}
    for algorithm, digest in expected.items():
        assert content_digest(data, algorithm) == digest
        assert format_content_digest({algorithm: digest}) == case["headers"][algorithm]
        assert parse_content_digest(case["headers"][algorithm]) == {algorithm: digest}
    checker = Checker(expected)
    checker.update(data)
    assert checker.mismatches() == []


@pytest.mark.parametrize("case", DIGEST["good"], ids=label)
def test_a_content_digest_is_read_as_the_vectors_say(case: dict[str, Any]) -> None:
    """Known digests are taken, unknown ones of every form are passed over."""
    assert parse_content_digest(case["header"]) == {k: bytes.fromhex(v) for k, v in case["digests"].items()}


@pytest.mark.parametrize("header", DIGEST["bad"], ids=label)
def test_a_bad_content_digest_is_a_value_error(header: str) -> None:
    """What is not a dictionary, or a known digest of the wrong kind or length, is refused."""
    with pytest.raises(ValueError):
        parse_content_digest(header)


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=32, max_size=32))
def test_content_digests_come_back(short: bytes, long: bytes) -> None:
    """Any digests survive the way to the header and back."""
    both = {CRC32C: short, SHA256: long}
    assert parse_content_digest(format_content_digest(both)) == both


@given(st.text(max_size=80) | st.text('crc32sha-=:;, "()\\%?@*A/+\t', max_size=80))
def test_any_content_digest_is_read_or_a_value_error(header: str) -> None:
    """Nothing but a ValueError, or digests of the right length."""
    try:
        digests = parse_content_digest(header)
    except ValueError:
        return
    assert all(len(digest) == DIGESTS[name] for name, digest in digests.items())


@pytest.mark.parametrize(
    "header",
    [
        "a," * 8_000,
        "a=(" * 5_000,
        "a;b" * 5_000 + "!",
        'a="' + "\\" * 16_000,
        "a=(" + " " * 16_000,
        "a;" + " " * 16_000 + "!",
    ],
    ids=label,
)
def test_a_long_header_does_not_make_the_parser_go_back(header: str) -> None:
    """A head full of openings ends in a ValueError; an expression that tries every way to read it would never end."""
    with pytest.raises(ValueError):
        parse_content_digest(header)


@given(st.binary(max_size=300), st.integers(0, 300), st.sampled_from([CRC32C, SHA256]))
def test_a_checker_does_not_mind_how_a_body_is_cut(body: bytes, cut: int, algorithm: str) -> None:
    """The digest of a body is the same in one piece and in two, and one more byte is noticed."""
    checker = Checker({algorithm: content_digest(body, algorithm)})
    checker.update(body[:cut])
    checker.update(body[cut:])
    assert checker.mismatches() == []
    checker.update(b"x")
    assert checker.mismatches() == [algorithm]


def test_every_digest_given_must_match() -> None:
    """Of two digests a single wrong one is named."""
    checker = Checker({CRC32C: bytes(4), SHA256: content_digest(b"body", SHA256)})
    checker.update(b"body")
    assert checker.mismatches() == [CRC32C]


def test_file_hashes_are_those_of_the_vectors() -> None:
    """A file hash is the SHA-256 in 64 lower-case digits, and nothing else is one."""
    for case in HASHES["good"]:
        assert content_digest(base64.b64decode(case["bytes"]), SHA256).hex() == case["hash"]
        assert is_file_hash(case["hash"])
    assert [text for text in HASHES["bad"] if is_file_hash(text)] == []
