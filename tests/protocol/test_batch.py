"""Bodies and answers of the batch extension, from the shared vectors and from hypothesis."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkyd.protocol.batch import (
    MAX_ENTRIES,
    EntryParser,
    Outcome,
    decode_outcome,
    encode_entry,
    encode_outcome,
)
from chunkyd.protocol.problems import TABLE, problem
from tests.protocol.shared import label, vectors

VECTORS = vectors("batch.json")


def parsed(*pieces: bytes) -> list[tuple[bytes, bytes]]:
    """Header and content of every entry in a body that comes in these pieces."""
    parser = EntryParser()
    found = [(entry.header, bytes(entry.content)) for piece in pieces for entry in parser.feed(piece)]
    parser.finish()
    return found


def entries_of(case: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [(base64.b64decode(each["headerBytes"]), base64.b64decode(each["contentBytes"])) for each in case["entries"]]


@pytest.mark.parametrize("case", VECTORS["good"], ids=label)
def test_a_good_body_holds_what_the_vectors_say(case: dict[str, Any]) -> None:
    """Whole or byte by byte, the parser finds exactly these entries, and the encoder writes the same body."""
    body, entries = base64.b64decode(case["bodyBytes"]), entries_of(case)
    assert parsed(body) == entries
    assert parsed(*(body[index : index + 1] for index in range(len(body)))) == entries
    assert b"".join(encode_entry(header, len(content)) + content for header, content in entries) == body


@pytest.mark.parametrize("case", VECTORS["bad"], ids=label)
def test_a_bad_body_is_a_value_error(case: dict[str, Any]) -> None:
    """What is no batch is refused, with a reason, before anything of its announced size is waited for."""
    with pytest.raises(ValueError, match=r"entry|batch"):
        parsed(base64.b64decode(case["bodyBytes"]))


def test_a_thousand_files_and_no_more() -> None:
    """The thousandth entry is read, the next one is refused."""
    one = encode_entry(b"{}", 0)
    assert len(parsed(one * MAX_ENTRIES)) == MAX_ENTRIES
    with pytest.raises(ValueError, match="1000"):
        parsed(one * (MAX_ENTRIES + 1))


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40)), max_size=8), st.data())
def test_cuts_between_pieces_do_not_matter(entries: list[tuple[bytes, bytes]], data: st.DataObject) -> None:
    """However a body is cut into pieces, its entries are the same."""
    body = b"".join(encode_entry(header, len(content)) + content for header, content in entries)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    pieces = [body[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert parsed(*pieces) == entries


@given(st.binary(max_size=100))
def test_garbage_is_read_or_a_value_error(body: bytes) -> None:
    """Arbitrary bytes are entries that make up the whole body, or a ValueError."""
    try:
        found = parsed(body)
    except ValueError:
        return
    assert sum(struct.calcsize(">II") + len(header) + len(content) for header, content in found) == len(body)


@pytest.mark.parametrize("case", VECTORS["outcomes"], ids=label)
def test_a_line_says_what_the_vectors_say(case: dict[str, Any]) -> None:
    """The reader finds result and problem, and the writer writes an equal document, on a line of its own."""
    outcome = decode_outcome(case["line"].encode())
    assert outcome.result == case["result"]
    assert (outcome.problem.name if outcome.problem else None) == case["problem"]
    line = encode_outcome(Outcome(case["result"], problem(case["problem"], "") if case["problem"] else None))
    assert json.loads(line) == json.loads(case["line"])
    assert line.endswith(b"\n") and line.count(b"\n") == 1


@pytest.mark.parametrize("case", VECTORS["badOutcomes"], ids=label)
def test_a_bad_line_is_a_value_error(case: dict[str, Any]) -> None:
    """An answer that the protocol does not promise is refused, and by nothing but a plain ValueError."""
    with pytest.raises(ValueError) as caught:
        decode_outcome(case["line"].encode())
    assert not isinstance(caught.value, (UnicodeError, msgspec.MsgspecError))


@given(st.sampled_from(sorted(TABLE)), st.text(max_size=50))
def test_every_problem_travels(name: str, detail: str) -> None:
    """Any row of the table, with any detail, newlines too, stays one line and comes back as itself."""
    line = encode_outcome(Outcome("refused", problem(name, detail)))
    assert line.count(b"\n") == 1
    found = decode_outcome(line).problem
    assert found is not None and found.name == name
