"""One open server for all tests of a module that do not need one of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.process import Client, ServerProcess, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Open, with small limits."""
    limits = {"reserve": "0B", "chunk": "1MiB", "file": "1TiB"}
    with serving(tmp_path_factory.mktemp("server"), limits=limits) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Client:
    """Somebody who talks to it."""
    return server.client()
