"""A real server for this package's tests, and a proxy before it that breaks things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkyd.upload import Uploader
from tests.e2e.programs import Server, running
from tests.upload.faultproxy import FaultProxy


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One open server for all tests; each publishes under names of its own."""
    server = Server(tmp_path_factory.mktemp("server"))
    with running(server):
        yield server


@pytest.fixture
def proxy(server: Server) -> Iterator[FaultProxy]:
    """Before the server."""
    with FaultProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def uploader(tmp_path: Path) -> Callable[..., Uploader]:
    """Uploaders that share one memory and do not wait long between attempts."""

    def make(url: str, path: Path | bytes, **options: Any) -> Uploader:
        options = {"state": str(tmp_path / "uploads.sqlite3"), "base": 0.01, "max_wait": 0.2} | options
        where = path if isinstance(path, bytes) else str(path)
        if "name" not in options:
            options["name"] = f"{tmp_path.name}/file"
        return Uploader(url, where, **options)

    return make
