"""The late-hash extension: declarations and names of versions, from the shared vectors and from hypothesis."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.protocol.digests import is_file_hash
from chunkyd.protocol.late_hash import (
    MAX_VERSION_CHARACTERS,
    MIN_VERSION_CHARACTERS,
    Declaration,
    decode_declaration,
    encode_declaration,
    file_version,
    is_file_version,
)
from tests.protocol.shared import label, vectors

VECTORS = vectors("late-hash.json")


@pytest.mark.parametrize("case", VECTORS["good"], ids=label)
def test_a_good_declaration_means_what_the_vectors_say(case: dict[str, Any]) -> None:
    """The parser reads the hash, and the encoder writes an equal document."""
    declaration = Declaration(case["means"])
    assert decode_declaration(case["body"].encode()) == declaration
    if case["canonical"]:
        assert json.loads(encode_declaration(declaration)) == json.loads(case["body"])


@pytest.mark.parametrize("case", VECTORS["bad"], ids=label)
def test_a_bad_declaration_is_a_value_error(case: dict[str, Any]) -> None:
    """What declares nothing is refused."""
    with pytest.raises(ValueError):
        decode_declaration(case["body"].encode())


@given(st.binary(max_size=200))
def test_garbage_is_only_ever_a_value_error(body: bytes) -> None:
    """Arbitrary bytes are refused by a ValueError."""
    with pytest.raises(ValueError):
        decode_declaration(body)


@pytest.mark.parametrize("text", VECTORS["versions"]["good"], ids=label)
def test_a_good_version_is_one(text: str) -> None:
    """And is within the lengths that the page states."""
    assert is_file_version(text)
    assert MIN_VERSION_CHARACTERS <= len(text) <= MAX_VERSION_CHARACTERS


@pytest.mark.parametrize("text", VECTORS["versions"]["bad"], ids=label)
def test_a_bad_version_is_none(text: str) -> None:
    """Hashes, other alphabets, other lengths, white space."""
    assert not is_file_version(text)


@given(st.text())
def test_no_text_is_both_a_hash_and_a_version(text: str) -> None:
    """Neither of any words, nor of what is made of them."""
    assert not (is_file_hash(text) and is_file_version(text))
    name = file_version(text)
    assert is_file_version(name) and not is_file_hash(name)
    assert name == file_version(text) != file_version(text + " ")
