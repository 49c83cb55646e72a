"""Fixtures of the catalog tests: every implementation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.catalog.base import Catalog
from chunkyd.catalog.memory import MemoryCatalog
from chunkyd.catalog.sql import SqlCatalog


@pytest.fixture
def sql(tmp_path: Path) -> Iterator[SqlCatalog]:
    made = SqlCatalog(str(tmp_path / "catalog.sqlite3"))
    yield made
    made.close()


@pytest.fixture(params=["memory", "sql"])
def catalog(request: pytest.FixtureRequest) -> Iterator[Catalog]:
    if request.param == "sql":
        yield request.getfixturevalue("sql")
    else:
        yield MemoryCatalog()
