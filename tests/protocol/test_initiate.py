"""Bodies of an initiate, from the shared vectors and from hypothesis."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.protocol.messages import MAX_TOTAL_BYTES, Initiate, decode_initiate, encode_initiate
from chunkyd.protocol.paths import check_path
from tests.protocol.shared import body_of, label, vectors

VECTORS = vectors("initiate.json")


def meaning(means: dict[str, Any]) -> Initiate:
    return Initiate(
        file_hash=means["fileHash"] or "",
        file_version=means.get("fileVersion"),
        total_bytes=int(means["totalBytes"]),
        path=None if means["pathBytes"] is None else base64.b64decode(means["pathBytes"]),
        modified_ns=None if means["modifiedNanoseconds"] is None else int(means["modifiedNanoseconds"]),
        client=means.get("client"),
        order=None if means.get("order") is None else int(means["order"]),
        mode=means["mode"],
    )


@pytest.mark.parametrize("case", VECTORS["good"], ids=label)
def test_a_good_body_means_what_the_vectors_say(case: dict[str, Any]) -> None:
    """The parser reads each good body as exactly its meaning."""
    assert decode_initiate(body_of(case)) == meaning(case["means"])


@pytest.mark.parametrize("case", [case for case in VECTORS["good"] if case["canonical"]], ids=label)
def test_the_encoder_writes_the_canonical_bodies(case: dict[str, Any]) -> None:
    """From the meaning of a canonical body the encoder writes an equal document."""
    assert json.loads(encode_initiate(meaning(case["means"]))) == json.loads(case["body"])


@pytest.mark.parametrize("case", VECTORS["bad"], ids=label)
def test_a_bad_body_is_a_value_error(case: dict[str, Any]) -> None:
    """The parser refuses each bad body, with a reason that can travel, and by nothing but a plain ValueError."""
    with pytest.raises(ValueError) as caught:
        decode_initiate(body_of(case))
    assert not isinstance(caught.value, (UnicodeError, msgspec.MsgspecError))
    assert str(caught.value).encode("utf-8")
    assert len(str(caught.value)) < 200


def test_deep_nesting_is_a_value_error() -> None:
    """A hundred thousand brackets in an unknown member end neither the process nor the parser."""
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        nested = opening * 100_000 + b"1" + closing * 100_000
        with pytest.raises(ValueError, match="nested too deeply"):
            decode_initiate(b'{"fileHash":"x","totalBytes":1,"extra":' + nested + b"}")


@given(st.binary(max_size=200))
def test_garbage_is_only_ever_a_value_error(body: bytes) -> None:
    """Arbitrary bytes are refused by a ValueError."""
    with pytest.raises(ValueError):
        decode_initiate(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
MEMBERS = ("fileHash", "fileVersion", "totalBytes", "path", "pathBytes", "modifiedAt", "mode")


@given(st.dictionaries(st.sampled_from(MEMBERS), JSON))
def test_members_of_any_type_are_read_or_refused(document: dict[str, Any]) -> None:
    """Whatever the known members hold, the answer is an Initiate within all limits or a ValueError."""
    try:
        request = decode_initiate(json.dumps(document).encode())
    except ValueError:
        return
    assert (request.file_version is not None) == (not request.file_hash) or document["fileHash"] == ""
    assert type(request.total_bytes) is int and 0 <= request.total_bytes <= MAX_TOTAL_BYTES
    assert request.path is None or check_path(request.path)
    assert request.mode is None or (type(request.mode) is int and 0 <= request.mode <= 0o777)


PARTS = st.binary(min_size=1, max_size=40).filter(lambda part: part not in (b".", b"..") and not set(part) & {0, 47})
TIMES = st.integers(-62_135_596_800 * 10**9, 253_402_300_800 * 10**9 - 1)


@given(
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.integers(0, MAX_TOTAL_BYTES),
    st.none() | st.lists(PARTS, min_size=1, max_size=8).map(b"/".join),
    st.none() | TIMES,
    st.none() | st.integers(0, 0o777),
)
def test_what_one_end_writes_the_other_reads(
    file_hash: str, total: int, path: bytes | None, modified: int | None, mode: int | None
) -> None:
    """Encoding and decoding gives the same request back, for any name and any nanosecond."""
    request = Initiate(file_hash, total, path, modified, mode)
    assert decode_initiate(encode_initiate(request)) == request


def test_a_version_without_its_hash_comes_out_as_it_went_in() -> None:
    """What stands for the hash travels alone, and only with a path: no hash is there to be a name."""
    request = Initiate("", 6, b"a", file_version="v1." + "a" * 16)
    assert decode_initiate(encode_initiate(request)) == request
    with pytest.raises(ValueError, match="path"):
        decode_initiate(encode_initiate(Initiate("", 6, file_version="v1." + "a" * 16)))


def test_a_time_that_cannot_be_said_is_left_out() -> None:
    """A file from the year 292 billion is uploaded, without its time."""
    request = Initiate("0" * 64, 1, modified_ns=(2**63 - 1) * 10**9)
    assert decode_initiate(encode_initiate(request)) == Initiate("0" * 64, 1)
