"""How much the kernel takes in for each connection: less, the more there are, so that all hold no more than a few do.

The web server reads at once what a socket holds, up to a limit, and keeps a buffer as large for each connection. Large
pieces make one upload fast, and would make a server of a thousand connections large. It does not show its sockets, so
they are looked up among the open files, and told what to hold. What comes in smaller pieces needs smaller buffers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator

FEW = 64  # so many connections hold what the kernel likes
ALL_BYTES = 32 << 20  # what more of them share
LEAST_BYTES = 64 << 10  # with less, what is on its way waits for word that it was taken
LOOK_SECONDS = 1.0
_BEYOND = 16  # descriptors; some are files
_KERNELS, _UNKNOWN = 0, -1  # what the kernel likes
_SO_BUF_LOCK = 72  # asm-generic/socket.h, since Linux 5.14; 0: the kernel sizes the buffers again


class ReceiveBuffers:
    """Those of the connections to one listener; they are looked at as requests begin. Belongs to the event loop."""

    def __init__(self, listener: socket.socket) -> None:
        self._port = listener.getsockname()[1]
        self._listener = os.fstat(listener.fileno()).st_ino
        self._shares: dict[int, int | None] = {}  # by inode: bytes, _KERNELS, _UNKNOWN, None for what is another's
        self._first = _KERNELS  # what is known of a connection at first sight
        self._share = _KERNELS
        self._highest = -1  # descriptor seen
        self._due_at = 0.0
        self._due_requests = FEW
        self._again: asyncio.TimerHandle | None = None

    def request_began(self, requests: int) -> None:
        """So many are being answered. Looks where there may be other connections than before."""
        if requests > self._due_requests or asyncio.get_running_loop().time() >= self._due_at:
            self._due_requests = max(FEW, requests * 5 // 4)
            self.look()
        elif self._share:
            self._look_beyond()

    def look(self) -> None:
        """Give each connection its share."""
        loop = asyncio.get_running_loop()
        self._due_at = loop.time() + LOOK_SECONDS
        found = {inode: number for number, inode in _sockets(_open_files())}
        before = self._shares
        self._shares = {inode: self._known(inode, number) for inode, number in found.items()}
        ours = {inode: number for inode, number in found.items() if self._shares[inode] is not None}
        self._share = share_of(len(ours.keys() - {self._listener}), few=FEW * 3 // 4 if self._share else FEW)
        if self._share:
            self._first = _UNKNOWN  # it has what the listener had when it came, and that was long ago for some
        for inode, number in ours.items():
            self._give(inode, number)
        self._highest = max(found.values(), default=-1)
        if found.keys() - before.keys() and self._share and self._again is None:
            # Whoever was accepted since, out of the same crowd, may have begun its only request already.
            self._again = loop.call_later(LOOK_SECONDS, self._look_again)

    def _look_beyond(self) -> None:
        """In a crowd, at the newest alone, before a byte of its body is read; what this misses the next look sees.

        While no connection ends, numbers are given in turn.
        """
        for number, inode in _sockets(range(self._highest + 1, self._highest + 1 + _BEYOND)):
            self._highest = number
            self._shares[inode] = self._known(inode, number)
            if self._shares[inode] is not None:
                self._give(inode, number)

    def _known(self, inode: int, number: int) -> int | None:
        if inode in self._shares:
            return self._shares[inode]
        return self._first if _is_at(number, self._port) else None

    def _give(self, inode: int, number: int) -> None:
        if self._shares[inode] != self._share:
            _tell(number, self._share, fixed=bool(self._share) and inode != self._listener)
            self._shares[inode] = self._share

    def _look_again(self) -> None:
        self._again = None
        self.look()


def share_of(connections: int, few: int = FEW) -> int:
    """Bytes for each of so many, or _KERNELS. A power of two, lest all are told for each that comes."""
    if connections <= few:
        return _KERNELS
    return max(LEAST_BYTES, 1 << (ALL_BYTES // connections).bit_length() - 1)


def _open_files() -> Iterable[int]:
    with contextlib.suppress(OSError):  # no file to be had, no /proc: they stay as they are
        return map(int, os.listdir("/proc/self/fd"))
    return ()


def _sockets(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Descriptors and inodes. The web server may close any of them at any time, and open others in their place."""
    for number in numbers:
        with contextlib.suppress(OSError):
            found = os.fstat(number)
            if stat.S_ISSOCK(found.st_mode):
                yield number, found.st_ino


@contextlib.contextmanager
def _borrowed(number: int) -> Iterator[socket.socket]:
    """The socket, which stays open. OSError where it is none any more."""
    borrowed = socket.socket(fileno=number)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _is_at(number: int, port: int) -> bool:
    """Whether it is the listener, or one of its connections."""
    with contextlib.suppress(OSError), _borrowed(number) as found:
        of_tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
        return of_tcp and found.getsockname()[1] == port
    return False


def _tell(number: int, share: int, *, fixed: bool) -> None:
    """Were it another connection by now, it would have a share that the next look sets right.

    `fixed`: until it is told otherwise. Not the listener: its connections would agree on a window that can never grow.
    """
    with contextlib.suppress(OSError), _borrowed(number) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, share or ALL_BYTES // FEW)
        if not fixed:
            found.setsockopt(socket.SOL_SOCKET, _SO_BUF_LOCK, 0)
