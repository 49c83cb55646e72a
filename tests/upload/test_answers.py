"""What answers mean: only what the protocol promises is believed."""

from __future__ import annotations

import pytest

from chunkyd.errors import ChunkyError, NetworkError, NotChunky, Problem
from chunkyd.protocol.messages import ChunkReply, StatusReply
from chunkyd.protocol.problems import problem, to_document
from chunkyd.upload.answers import Answer, checked_status, decoded, failure, missing_of

HTML = b"<html>Please log in</html>"
URL = "http://files.example.org"


def answer(status: int, body: bytes = HTML, **headers: str) -> Answer:
    return Answer(
        URL, status, {name.replace("_", "-"): value for name, value in headers.items()}, body, 1_800_000_000.0
    )


@pytest.mark.parametrize("status", [200, 201, 204, 400, 408, 409, 410, 418, 500, 502, 503, 504, 599, 999])
def test_what_is_not_promised_is_a_network_error(status: int) -> None:
    """A portal's 200, a proxy's 502 and the like say nothing about the upload: try again."""
    with pytest.raises(NetworkError):
        decoded(answer(status), 200, ChunkReply)


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_bare_refusal_is_not_a_chunky_server(status: int) -> None:
    """The URL is named, so that it can be put right."""
    with pytest.raises(NotChunky, match=URL):
        decoded(answer(status), 200, ChunkReply)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_names_its_target(status: int) -> None:
    """Redirects are not followed; the error says where to."""
    found = failure(answer(status, b"", location="https://elsewhere.example/\x1b[31m"))
    assert isinstance(found, NotChunky)
    assert "https://elsewhere.example/" in str(found)
    assert "\x1b" not in str(found)


def test_a_bare_413_is_chunk_too_large() -> None:
    """A proxy's limit makes smaller chunks."""
    found = failure(answer(413))
    assert isinstance(found, Problem)
    assert found.name == "chunk-too-large"


@pytest.mark.parametrize("detail", ["\x1b]0;owned\x07", "two\nlines", "\u202egpj", "\x9b31m", "x" * 1_000_000])
def test_a_detail_is_foreign_text(detail: str) -> None:
    """What a server says can neither steer a terminal, nor forge a line of a log, nor fill the job table."""
    sent = problem("forbidden", detail)
    found = failure(answer(sent.status, to_document(sent)))
    assert isinstance(found, Problem)
    assert str(found).isprintable()
    assert len(str(found)) < 1000


@pytest.mark.parametrize("name", ["unauthorized", "storage-full", "session-expired", "internal", "chunk-too-large"])
def test_a_problem_is_read_with_its_table_row_and_retry_after(name: str) -> None:
    """The server's problem arrives as it was raised."""
    sent = problem(name, "because", maxChunkBytes=7)
    found = failure(answer(sent.status, to_document(sent), retry_after="12"))
    assert isinstance(found, Problem)
    assert (found.name, found.action, found.retry_after, found.members["maxChunkBytes"]) == (name, sent.action, 12.0, 7)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 5.0), ("0", 0.0), ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0), ("soon", None), ("-1", None), ("", None)],
)
def test_retry_after_on_any_answer(text: str, seconds: float | None) -> None:
    """Seconds and dates are honoured on a proxy's answer too, nonsense is not."""
    found = failure(answer(503, retry_after=text))
    assert isinstance(found, NetworkError)
    assert found.retry_after == seconds


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"status": "done"}',
        b'{"status": "incomplete", "missingRanges": [], "totalBytes": "5", "expiresAt": ""}',
        b"\xff",
        b'{"status":',
    ],
)
def test_json_of_another_shape_is_a_network_error(body: bytes) -> None:
    """A reply is taken as a whole or not at all."""
    with pytest.raises(NetworkError):
        decoded(answer(200, body), 200, StatusReply)


@pytest.mark.parametrize("ranges", ["[[0, 5]]", "[[3, 2]]", "[[-1, 2]]", "[[2, 3], [0, 1]]", "[[0, 1], [2, 3]]"])
def test_broken_missing_ranges_are_a_network_error(ranges: str) -> None:
    """Ranges beyond the file, reversed, out of order or touching are not believed."""
    body = f'{{"status": "incomplete", "missingRanges": {ranges}, "totalBytes": 5, "expiresAt": ""}}'
    found = answer(200, body.encode())
    with pytest.raises(NetworkError):
        missing_of(found, decoded(found, 200, StatusReply), 5)


def test_a_status_of_another_file_is_a_network_error() -> None:
    """The total must be the file's."""
    body = b'{"status": "incomplete", "missingRanges": [], "totalBytes": 6, "expiresAt": ""}'
    found = answer(200, body)
    with pytest.raises(ChunkyError):
        checked_status(found, decoded(found, 200, StatusReply), 5)
