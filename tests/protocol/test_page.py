"""docs/protocol.md is true to the code: its tables, its numbers and its examples."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from chunkyd.protocol import batch, late_hash, messages, paths
from chunkyd.protocol.digests import parse_content_digest
from chunkyd.protocol.problems import TABLE, TYPE_PREFIX, Action
from tests.protocol.shared import vectors

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```json (\S+): ([^\n]+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NUMBERS = {
    "largest `totalBytes`": messages.MAX_TOTAL_BYTES,
    "largest `mode`": messages.MAX_MODE,
    "longest path, in bytes": paths.MAX_PATH_BYTES,
    "longest part of a path, in bytes": paths.MAX_PART_BYTES,
    "most separate stored ranges of a session": messages.MAX_STORED_RANGES,
    "largest head of a request, in bytes": messages.MAX_HEAD_BYTES,
    "time to live of a session by default, in seconds": messages.DEFAULT_TTL_SECONDS,
    "no byte for so many seconds ends a chunk or a connection": messages.STALL_SECONDS,
    "smallest chunk a client halves to, in bytes": messages.MIN_CHUNK_BYTES,
    "longest `Retry-After` a client follows, in seconds": messages.MAX_RETRY_AFTER,
    "most files of a batch": batch.MAX_ENTRIES,
    "largest file in a batch, in bytes": batch.MAX_CONTENT_BYTES,
    "largest header of an entry, in bytes": batch.MAX_HEADER_BYTES,
    "shortest `fileVersion`, in characters": late_hash.MIN_VERSION_CHARACTERS,
    "longest `fileVersion`, in characters": late_hash.MAX_VERSION_CHARACTERS,
}


def table(header: str) -> list[list[str]]:
    """The cells of the table of the page that begins with this header, without the header."""
    lines = PAGE[PAGE.index(header) :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_of_problems_is_the_code_s() -> None:
    """Name, status, title, action and retryable of every row are those of the code, in the same order."""
    rows = [row[:5] for row in table("| name | status | title |")]
    assert rows == [
        [f"`{kind.name}`", str(kind.status), kind.title, kind.action, "yes" if kind.retryable else "no"]
        for kind in TABLE.values()
    ]


def test_the_list_of_actions_is_the_code_s() -> None:
    """Every action is explained, and no other."""
    assert [row[0].strip("`") for row in table("| action | the client |")] == list(get_args(Action))


def test_the_numbers_are_the_code_s() -> None:
    """Each limit the page states is the constant the code uses."""
    assert {row[0]: int(row[1]) for row in table("| what | value |")} == NUMBERS


@pytest.mark.parametrize(("file", "name", "text"), EXAMPLES, ids=[f"{file} {name}" for file, name, _ in EXAMPLES])
def test_each_example_is_a_vector(file: str, name: str, text: str) -> None:
    """The documents shown are those the tests of both ends read."""
    bodies = {case["name"]: case["body"] for case in reversed(vectors(file)["good"])}
    assert json.loads(text) == json.loads(bodies[name])


def test_the_examples_are_all_there() -> None:
    """Every request that has a JSON body or reply shows one, and so do the problems."""
    assert {file for file, _, _ in EXAMPLES} == {"initiate.json", "replies.json", "problems.json", "late-hash.json"}
    assert len(EXAMPLES) == len(re.findall(r"^```json", PAGE, re.MULTILINE)) == 9
    assert TYPE_PREFIX in PAGE


def test_the_headers_shown_are_vectors() -> None:
    """The Content-Range and the Content-Digest shown are read by the code and listed in the vectors."""
    shown = dict(re.findall(r"^(Content-\w+): (.+)$", PAGE, re.MULTILINE))
    assert shown["Content-Range"] in [case["header"] for case in vectors("content-range.json")["good"]]
    assert parse_content_digest(shown["Content-Digest"]) == {"crc32c": bytes.fromhex("e3069283")}


@pytest.mark.parametrize(
    "said",
    [
        f"`POST {messages.PATH_INITIATE}`",
        f"`PATCH {messages.PATH_CHUNK}`",
        f"`GET {messages.PATH_STATUS}`",
        f"`POST {messages.PATH_END}`",
        f"`POST {batch.PATH_BATCH}`",
        f"`POST {late_hash.PATH_DECLARE}`",
        f"`GET {messages.PATH_HEALTH}`",
        f"`GET {messages.PATH_READY}`",
        f"`{messages.HEADER_VERSION}: {messages.PROTOCOL_VERSION}`",
        f"`{messages.HEADER_SESSION}: ",
        f"`{messages.HEADER_FILE_HASH}: ",
        f"`{messages.HEADER_REQUEST_ID}`",
        f"`{messages.HEADER_IDEMPOTENCY_KEY}`",
    ],
)
def test_the_names_on_the_wire_are_the_code_s(said: str) -> None:
    """Paths, verbs and headers are spelled on the page as in the code."""
    assert said in PAGE
