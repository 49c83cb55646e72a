"""Batches as the tests send them."""

from __future__ import annotations

from typing import Any

from chunkyd.protocol import batch
from chunkyd.protocol.batch import Outcome, decode_outcome, encode_entry
from chunkyd.protocol.digests import content_digest, format_content_digest
from chunkyd.protocol.messages import Initiate, encode_initiate
from tests.server.process import Client, Reply, sha

MODIFIED = 1_700_000_000_123_456_789


def entry(path: bytes | None, content: bytes, *, offered: bool = False, **changes: Any) -> bytes:
    """One file; `changes` are members of its header that differ from the truth."""
    known = {"file_hash": sha(content), "total_bytes": len(content), "path": path, "modified_ns": MODIFIED, **changes}
    return encode_entry(encode_initiate(Initiate(**known)), 0 if offered else len(content)) + (
        b"" if offered else content
    )


def send(client: Client, *entries: bytes, **headers: str) -> Reply:
    """The request; `headers` replace its own."""
    body = b"".join(entries)
    named = {
        "Content_Type": batch.CONTENT_TYPE,
        "Content_Digest": format_content_digest({"crc32c": content_digest(body)}),
        **headers,
    }
    return client.request("POST", batch.PATH_BATCH, body, **named)


def outcomes(reply: Reply) -> list[Outcome]:
    """What the answer says of each file."""
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == batch.ANSWER_TYPE
    return [decode_outcome(line) for line in reply.body.splitlines()]


def results(reply: Reply) -> list[str]:
    """The same in a word each: complete, wanted, or the problem's name."""
    return [outcome.problem.name if outcome.problem else outcome.result for outcome in outcomes(reply)]
