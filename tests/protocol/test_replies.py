"""Replies and `Retry-After`, from the shared vectors and from hypothesis."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.protocol.messages import (
    MAX_RETRY_AFTER,
    ChunkReply,
    EndReply,
    LimitsReply,
    SessionReply,
    StatusReply,
    decode_reply,
    encode_reply,
    parse_retry_after,
)
from tests.protocol.shared import label, vectors

VECTORS = vectors("replies.json")
RETRY = vectors("retry-after.json")
KINDS: dict[str, Any] = {
    "initiate": SessionReply,
    "chunk": ChunkReply,
    "status": StatusReply,
    "end": EndReply,
    "limits": LimitsReply,
}


@pytest.mark.parametrize("case", VECTORS["good"], ids=label)
def test_both_ends_read_and_write_the_good_replies(case: dict[str, Any]) -> None:
    """A good reply, read and written again, is the same document."""
    reply = decode_reply(case["body"].encode(), KINDS[case["request"]])
    assert json.loads(encode_reply(reply)) == json.loads(case["body"])


@pytest.mark.parametrize("case", VECTORS["tolerated"], ids=label)
def test_a_client_reads_what_a_newer_server_says(case: dict[str, Any]) -> None:
    """Unknown members and values of open lists are no reason to refuse a reply."""
    reply = decode_reply(case["body"].encode(), KINDS[case["request"]])
    assert json.loads(encode_reply(reply)).items() <= json.loads(case["body"]).items()


@pytest.mark.parametrize("case", VECTORS["bad"], ids=label)
def test_a_reply_that_was_not_promised_is_a_value_error(case: dict[str, Any]) -> None:
    """A portal's page, a session ID that splits a header, chunks of no bytes: refused by a ValueError."""
    with pytest.raises(ValueError):
        decode_reply(case["body"].encode(), KINDS[case["request"]])


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200))
def test_garbage_is_no_reply(kind: str, body: bytes) -> None:
    """Arbitrary bytes are refused by a ValueError, whatever was asked."""
    with pytest.raises(ValueError):
        decode_reply(body, KINDS[kind])


def test_a_reply_of_100_000_ranges_is_read() -> None:
    """As many missing ranges as a session can have fit a reply."""
    missing = [(2 * index, 2 * index) for index in range(100_001)]
    reply = StatusReply("incomplete", missing, 200_002, "2026-11-28T04:05:06Z")
    assert decode_reply(encode_reply(reply), StatusReply) == reply


@pytest.mark.parametrize("case", RETRY["cases"], ids=label)
def test_retry_after_is_read_as_the_vectors_say(case: dict[str, Any]) -> None:
    """Seconds and the three forms of an HTTP date are understood, anything else is ignored."""
    assert parse_retry_after(case["header"], RETRY["now"]) == case["seconds"]


DATES = st.text("0123456789 :,-+GMTSunNov", max_size=40)


@given(st.text(max_size=60) | DATES, st.floats(-1e12, 1e12))
def test_any_retry_after_is_a_bearable_wait(text: str, now: float) -> None:
    """Whatever a header holds, the wait is none or between zero and an hour."""
    seconds = parse_retry_after(text, now)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER
