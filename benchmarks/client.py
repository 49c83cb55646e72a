"""The smallest client of the protocol: one request after the other, so that what is timed is the server."""

from __future__ import annotations

import hashlib
import http.client
import json
from typing import Any

from chunkyd.protocol.digests import content_digest, format_content_digest
from chunkyd.protocol.messages import Initiate, encode_initiate, format_content_range

ORDINARY = (200, 201)


class Session:
    """A session's two keys, and the heads of its requests."""

    def __init__(self, session_id: str, file_hash: str, total: int) -> None:
        self.keys = {"Chunky-Session": session_id, "Chunky-File-Hash": file_hash}
        self.total = total

    def head(self, start: int, content: bytes) -> dict[str, str]:
        """Of a chunk that begins at this byte."""
        return {
            **self.keys,
            "Content-Type": "application/octet-stream",
            "Content-Range": format_content_range((start, start + len(content)), self.total),
            "Content-Digest": format_content_digest({"crc32c": content_digest(content)}),
        }

    def raw_head(self, start: int, content: bytes) -> bytes:
        """The same as it goes over the wire."""
        lines = [f"{name}: {value}" for name, value in self.head(start, content).items()]
        first = ["PATCH /uploadChunk HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}"]
        return "\r\n".join([*first, *lines, "", ""]).encode()


class Client:
    """One connection to a server on loopback. An answer that is none of ORDINARY is a RuntimeError."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> Any:
        """One request; the answer's document."""
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status not in ORDINARY:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
        return json.loads(content)

    def initiate(self, path: bytes, total: int, file_hash: str | None = None) -> Session:
        """A session for so many bytes; without a hash for one that no bytes have."""
        file_hash = file_hash or hashlib.sha256(path).hexdigest()
        body = encode_initiate(Initiate(file_hash, total, path))
        answer = self.ask("POST", "/initiateUploadSession", {"Content-Type": "application/json"}, body)
        return Session(answer["sessionId"], file_hash, total)

    def put(self, session: Session, start: int, content: bytes) -> None:
        """One chunk."""
        self.ask("PATCH", "/uploadChunk", session.head(start, content), content)

    def status(self, session: Session) -> Any:
        """How the session stands."""
        return self.ask("GET", "/uploadStatus", session.keys)
