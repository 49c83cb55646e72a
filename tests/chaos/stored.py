"""What the server has said it has stored, from its own log, and whether it still has it after a restart."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time

from chunkyd.errors import ChunkyError, Problem
from chunkyd.protocol.ranges import Range, RangeSet
from chunkyd.upload.transport import Client
from tests.e2e.programs import Server

_STORED = re.compile(rb"PATCH /uploadChunk 200 .* session=(\S{8}) range=(\d+)-(\d+)/\d+ body=(\d+) ")
_PATIENCE = 5.0  # seconds for a server that was just started; where it dies again, the next start is asked

Said = dict[str, RangeSet]


class Stored:
    """Follows one server's log."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._position = 0
        self._rest = b""
        self._ranges: Said = {}
        self.received = 0  # bytes of the chunks that were answered with 200
        self.checks = 0

    def said(self) -> list[tuple[str, RangeSet]]:
        """All it has said by now, by the session's first digits."""
        with self._server.log.open("rb") as log:
            log.seek(self._position)
            new = self._rest + log.read()
            self._position = log.tell()
        new, _, self._rest = new.rpartition(b"\n")
        for match in _STORED.finditer(new):
            self.received += int(match[4])
            self._ranges.setdefault(match[1].decode(), RangeSet()).add(int(match[2]), int(match[3]) + 1)
        return [(session, ranges.copy()) for session, ranges in self._ranges.items()]

    def total(self) -> int:
        """How many different bytes of sessions it has said it has stored."""
        return sum(ranges.total for _, ranges in self.said())

    def check_soon(self, said: list[tuple[str, RangeSet]]) -> None:
        """Once it answers: no range that it said was stored is missing. An AssertionError, else."""
        by_session = dict(said)
        deadline = time.monotonic() + _PATIENCE
        with contextlib.closing(Client(self._server.url)) as client:
            while not self._ready(client):
                if time.monotonic() > deadline or not self._server.running():
                    return
                time.sleep(0.05)
            for session_id, file_hash, size in self._sessions():
                ranges = by_session.get(session_id[:8])
                if ranges is not None:
                    self._check(client, session_id, file_hash, size, ranges)

    def _check(self, client: Client, session_id: str, file_hash: str, size: int, ranges: RangeSet) -> None:
        try:
            missing: tuple[Range, ...] = tuple(client.status(session_id, file_hash, size).missing)
        except (Problem, ChunkyError):  # ended meanwhile
            return
        self.checks += 1
        lost = [piece for piece in missing if ranges.overlaps(*piece)]
        assert not lost, f"session {session_id:.8}: {lost} was said to be stored, and is missing"

    def _ready(self, client: Client) -> bool:
        try:
            client.limits()
        except ChunkyError:
            return False
        return True

    def _sessions(self) -> list[tuple[str, str, int]]:
        key = "coalesce(file_version, file_hash)"
        question = f"SELECT session_id, {key}, total_bytes FROM session WHERE state = 'receiving'"
        path = f"file:{self._server.data}/catalog.sqlite3?mode=ro"
        with contextlib.closing(sqlite3.connect(path, uri=True, timeout=10)) as rows:
            return rows.execute(question).fetchall()
