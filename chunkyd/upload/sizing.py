"""How big the next chunk is: pure. A chunk should take seconds, not minutes, and the last ones share what is left."""

from __future__ import annotations

from chunkyd.protocol.messages import MIN_CHUNK_BYTES

_MIB = 1024 * 1024
_FIRST = 8 * _MIB
_FIRST_LEAST, _FIRST_MOST = 4 * _MIB, 16 * _MIB  # how far a server's advice is followed at the start
_MOST = 64 * _MIB
_SHARE = 4 * _MIB  # what is left is shared among the connections in pieces no smaller than this
_FAST, _TARGET, _SLOW = 2.0, 4.0, 8.0  # seconds for a chunk


class ChunkSize:
    """The size of the next chunk. `fixed`: what the user asked for; only a limit or another client makes it smaller."""

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        self._most = fixed or _MOST
        self._size = fixed or _FIRST
        self._calm = 0  # above 0: no larger than this, because others send parts of the same file

    def next(self, remaining: int, connections: int) -> int:
        """The size for a chunk where `remaining` bytes are free to send."""
        size = min(self._size, self._calm) if self._calm else self._size
        return size if self._fixed is not None else min(size, max(_SHARE, -(-remaining // connections)))

    def learn(self, most: int | None, advice: int | None) -> None:
        """What the server says at the beginning: its limit and its advice."""
        if advice is not None and self._fixed is None:
            self._size = min(max(advice, _FIRST_LEAST), _FIRST_MOST)
        if most is not None:
            self._most = max(1, min(self._most, most))
            self._size = min(self._size, self._most)

    def limit(self, most: int) -> None:
        """Somebody on the way takes no more than this."""
        self._most = max(most, MIN_CHUNK_BYTES)
        self._size = min(self._size, self._most)

    def took(self, length: int, seconds: float) -> None:
        """A chunk of this length was stored in this time."""
        self._calm = self._calm * 2 if self._calm * 2 < self._size else 0
        if self._fixed is not None or length < self._size:
            return
        if seconds < _FAST:
            self._size = min(self._size * 2, self._most)
        elif seconds > _SLOW:
            self._size = max(int(self._size * _TARGET / seconds), min(MIN_CHUNK_BYTES, self._most))

    def cut(self, length: int) -> None:
        """A chunk did not arrive: on a link that breaks all the time only chunks shorter than its good spells do."""
        if self._fixed is None and length >= self._size:
            self._size = max(self._size // 2, min(MIN_CHUNK_BYTES, self._most))

    def contested(self, length: int) -> None:
        """Somebody else sends a part of this chunk: smaller pieces find out which, and cost less where refused."""
        self._calm = max(min(length, self._size) // 2, min(MIN_CHUNK_BYTES, self._most))
