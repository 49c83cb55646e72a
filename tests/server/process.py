"""A real chunky-server process, and a client of plain sockets that says exactly what a test wants."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from chunkyd.protocol.digests import content_digest, format_content_digest
from chunkyd.protocol.late_hash import PATH_DECLARE, Declaration, encode_declaration
from chunkyd.protocol.messages import Initiate, encode_initiate, format_content_range

PROGRAM = Path(sys.executable).parent / "chunky-server"


def sha(data: bytes) -> str:
    """The file hash."""
    return hashlib.sha256(data).hexdigest()


def wait_until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """The condition's first true value, before the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("the condition never came true")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Reply:
    """An answer: status, headers (lower case), the JSON document."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        """The document."""
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The name of the problem, "" where it is none."""
        kind = self.json.get("type", "") if self.body else ""
        return str(kind).removeprefix("https://chunkyd.dev/problems/")


class ServerProcess:
    """`chunky-server run` on a data folder."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.data = folder / "data"
        self.log_path = folder / "server.log"
        self.config = folder / "server.yaml"
        self.port = free_port()
        self.settings: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.port}",
            "data_dir": str(self.data),
            "auth": "open",
            "limits": {"reserve": "0B"},
            **settings,
        }
        self.files: int | None = None  # how many it may have open
        self.stdout: Path | None = None  # where it leads, if not to the log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> ServerProcess:
        """Begin; return when it listens."""
        self.config.write_text(yaml.safe_dump(self.settings))
        before = self.log().count("listening on http")
        with self.log_path.open("ab") as log, (self.stdout or self.log_path).open("ab") as stdout:
            command: list[str | Path] = [PROGRAM, "--config", self.config, "run"]
            if self.files is not None:
                command = ["sh", "-c", f'ulimit -n {self.files}; exec "$@"', "sh", *command]
            self.process = subprocess.Popen(command, stdout=stdout, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(lambda: self.log().count("listening on http") > before or self.process.poll() is not None)
        assert self.process.poll() is None, self.log()
        return self

    def log(self) -> str:
        """All it has said."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def lines(self, pattern: str) -> list[str]:
        """Its log's lines that match."""
        return [line for line in self.log().splitlines() if re.search(pattern, line)]

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def terminate(self, seconds: float = 11.0) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another chunky-server command on the same configuration."""
        self.config.write_text(yaml.safe_dump(self.settings))
        command = [PROGRAM, "--config", self.config, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    def client(self, token: str | None = None) -> Client:
        """Somebody who talks to it."""
        return Client(self.port, token)

    def file(self, path: str | bytes, user: str = "local") -> Path:
        """A published file."""
        return Path(os.fsdecode(os.path.join(os.fsencode(self.data), b"files", user.encode(), os.fsencode(path))))

    def memory(self) -> int:
        """Resident bytes."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return int(found.group(1)) * 1024


class Client:
    """One user on one kept-alive connection."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self.port = port
        self._token = token
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """One request; header names with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._token is not None:
            named.setdefault("Authorization", f"Bearer {self._token}")
        try:
            self._connection.request(method, path, body, named)
            answer = self._connection.getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            self._connection.close()
            try:
                self._connection.request(method, path, body, named)
                answer = self._connection.getresponse()
            except OSError:  # a dead server's connection is of no use to the next request
                self._connection.close()
                raise
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())

    def initiate(self, data: bytes, path: bytes | None = b"f", **more: Any) -> Session:
        """A session for these bytes."""
        key = more.pop("key", None)
        request = Initiate(more.pop("file_hash", "" if "file_version" in more else sha(data)), len(data), path, **more)
        headers = {"Idempotency_Key": key} if key else {}
        reply = self.request(
            "POST", "/initiateUploadSession", encode_initiate(request), Content_Type="application/json", **headers
        )
        return Session(self, data, request.file_version or request.file_hash, reply)

    def upload(self, data: bytes, path: bytes | None = b"f") -> Session:
        """A whole file."""
        session = self.initiate(data, path)
        assert session.reply.status == 201, session.reply.body
        if session.reply.json["status"] == "incomplete":
            assert session.put(0, len(data)).status == 200
        wait_until(lambda: session.status().json["status"] == "complete")
        return session

    def raw(self, data: bytes, *, wait: float = 5.0, end: bool = False) -> bytes:
        """Bytes on a connection of their own; everything that comes back until the server closes, or nothing moves."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            return read_all(connection, wait)


def read_all(connection: socket.socket, wait: float) -> bytes:
    """Until the other end closes, or nothing moves for so long."""
    connection.settimeout(wait)
    received = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        while piece := connection.recv(65536):
            received += piece
    return received


class Session:
    """A session as its client knows it."""

    def __init__(self, client: Client, data: bytes, file_hash: str, reply: Reply) -> None:
        self.client = client
        self.data = data
        self.file_hash = file_hash
        self.reply = reply
        self.id = str(reply.json.get("sessionId", "")) if reply.body else ""

    @property
    def keys(self) -> dict[str, str]:
        """The two keys."""
        return {"Chunky_Session": self.id, "Chunky_File_Hash": self.file_hash}

    def head(self, start: int, stop: int, **changes: str | None) -> dict[str, str]:
        """A chunk's headers, with changes; None leaves one out."""
        headers: dict[str, str | None] = {
            **self.keys,
            "Content_Type": "application/octet-stream",
            "Content_Range": format_content_range((start, stop), len(self.data)),
            "Content_Digest": format_content_digest({"crc32c": content_digest(self.data[start:stop])}),
            **changes,
        }
        return {name: value for name, value in headers.items() if value is not None}

    def put(self, start: int, stop: int, body: bytes | None = None, **changes: str | None) -> Reply:
        """One chunk."""
        part = self.data[start:stop] if body is None else body
        return self.client.request("PATCH", "/uploadChunk", part, **self.head(start, stop, **changes))

    def raw_head(self, start: int, stop: int, length: int | None = None, **changes: str | None) -> bytes:
        """A chunk's head as bytes, to be sent by hand."""
        lines = ["PATCH /uploadChunk HTTP/1.1", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in self.head(start, stop, **changes).items()]
        lines.append(f"Content-Length: {stop - start if length is None else length}")
        return "\r\n".join([*lines, "", ""]).encode()

    def in_progress(self, at: int) -> bool:
        """Whether somebody is sending this byte; a body too long is refused right after that, and claims nothing."""
        return self.put(at, at + 1, b"12").problem == "chunk-in-progress"

    def status(self) -> Reply:
        """Ask how it stands."""
        return self.client.request("GET", "/uploadStatus", **self.keys)

    def declare(self, file_hash: str | None = None, **headers: str) -> Reply:
        """Its hash, where it began without one."""
        body = encode_declaration(Declaration(sha(self.data) if file_hash is None else file_hash))
        named = {**self.keys, "Content_Type": "application/json", **headers}
        return self.client.request("POST", PATH_DECLARE, body, **named)

    def end(self) -> Reply:
        """End it."""
        return self.client.request("POST", "/endUpload", **self.keys)


@contextlib.contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[ServerProcess]:
    """A server for the length of a block; whatever happens, it does not outlive it."""
    server = ServerProcess(folder, **settings)
    try:
        yield server.start()
    finally:
        server.kill()
