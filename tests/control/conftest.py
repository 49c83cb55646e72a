"""A control server over a real socket, with a small daemon behind it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.control.client import ControlClient
from chunkyd.control.server import ControlServer
from tests.control.fake import FakeBackend, job


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="ck-") as folder:
        yield Path(folder)


@pytest.fixture
def path(short_folder: Path) -> str:
    """Where the socket is to be."""
    return str(short_folder / "control.sock")


@pytest.fixture
def backend() -> FakeBackend:
    """With one queued, one failed and one finished job."""
    return FakeBackend(job(1), job(2, b"bad\xff\n.bin", "failed", error="no room"), job(3, state="done"))


@pytest.fixture
def server(path: str, backend: FakeBackend) -> Iterator[ControlServer]:
    """Running."""
    running = ControlServer(path, None, backend)
    running.start()
    yield running
    backend.release.set()
    running.stop()


@pytest.fixture
def client(path: str, server: ControlServer) -> ControlClient:
    """Of the running server."""
    return ControlClient(path)
