"""The receive buffers of many connections: what they share, who is told, and who is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from chunkyd.server.receive_buffers import ALL_BYTES, FEW, LEAST_BYTES, ReceiveBuffers, share_of

MANY = FEW + 16
_MOST = int(Path("/proc/sys/net/core/rmem_max").read_text())


def test_all_hold_together_what_they_share() -> None:
    """However many, they hold no more than all may, and no fewer hold less than more do."""
    shares = [share_of(connections) for connections in range(1, 5000)]
    assert set(shares[:FEW]) == {0}
    assert all(share >= LEAST_BYTES for share in shares[FEW:])
    assert all(share * number <= ALL_BYTES for number, share in enumerate(shares, 1) if share > LEAST_BYTES)
    assert shares[FEW:] == sorted(shares[FEW:], reverse=True)


@contextlib.contextmanager
def _crowd(listener: socket.socket, number: int) -> Iterator[list[socket.socket]]:
    """So many accepted connections."""
    with contextlib.ExitStack() as stack:
        accepted = []
        for _ in range(number):
            stack.enter_context(socket.create_connection(listener.getsockname(), timeout=10))
            accepted.append(stack.enter_context(listener.accept()[0]))
        yield accepted


def _held(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def _told(connections: int) -> int:
    """What each of so many holds: the kernel allows so much, and doubles it for its own bookkeeping (socket(7))."""
    return 2 * min(share_of(connections), _MOST)


def _window_scale(connection: socket.socket) -> int:
    """How far its window may ever grow, agreed upon when it began (tcp_info, RFC 7323)."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[6] >> 4


def _is_fixed(connection: socket.socket) -> bool:
    """Whether its receive buffer stays as it is, whatever comes (SOCK_RCVBUF_LOCK)."""
    return bool(connection.getsockopt(socket.SOL_SOCKET, 72) & 2)  # SO_BUF_LOCK


def test_a_crowd_comes_and_goes() -> None:
    """Each of many has its share, and who comes later. Of the few that are left the kernel sizes the buffers again."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=MANY) as listener, socket.socket() as other:
            usual, others = _held(listener), _held(other)
            buffers = ReceiveBuffers(listener)
            with _crowd(listener, FEW // 2) as few:
                buffers.look()
                assert _held(listener) == usual
                grown = {_held(each) for each in few}
                with _crowd(listener, MANY - FEW // 2) as more:
                    assert {_held(each) for each in more} == grown
                    buffers.look()
                    share = _told(MANY)
                    assert {_held(each) for each in (*few, *more)} == {share}
                    with _crowd(listener, MANY) as late:
                        assert {_held(each) for each in late} == {share}  # before they have sent a byte
                        assert {_window_scale(each) for each in late} == {_window_scale(few[0])}
                        async with asyncio.timeout(10):
                            while _held(late[-1]) == share:  # nobody asks: it looks again by itself
                                await asyncio.sleep(0.05)
                        assert {_held(each) for each in (*few, *more, *late)} == {_told(2 * MANY)}
                        assert _told(2 * MANY) < share
                buffers.look()
                with _crowd(listener, 1) as late:
                    assert all(_held(each) > share and not _is_fixed(each) for each in (*few, *late))
            assert _held(other) == others

    asyncio.run(scenario())


def test_it_looks_when_requests_begin() -> None:
    """At once where they became many, and else once in a while."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=MANY) as listener:
            buffers = ReceiveBuffers(listener)
            buffers.request_began(1)
            with _crowd(listener, MANY) as accepted:
                usual = _held(accepted[0])
                buffers.request_began(FEW)
                assert _held(accepted[0]) == usual
                buffers.request_began(FEW + 1)
                assert _held(accepted[0]) == _told(MANY)
                with _crowd(listener, 1) as late:
                    buffers.request_began(FEW + 2)  # in a crowd each that comes is told
                    assert _is_fixed(late[0])

    asyncio.run(scenario())


def test_sockets_that_go_meanwhile_are_no_mistake() -> None:
    """Their descriptors may be files by then, or nothing."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=MANY) as listener:
            buffers = ReceiveBuffers(listener)
            listed = os.listdir

            def and_then_close(path: str) -> list[str]:
                found = listed(path)
                stack.close()
                return found

            with contextlib.ExitStack() as stack:
                stack.enter_context(_crowd(listener, MANY))
                os.listdir = and_then_close  # type: ignore[assignment]
                try:
                    buffers.look()
                finally:
                    os.listdir = listed

    asyncio.run(scenario())
