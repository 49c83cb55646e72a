"""Where a server may keep its data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunkyd.errors import StateError
from chunkyd.mounts import file_system
from chunkyd.server.stores import open_stores
from chunkyd.storage.disk import DiskStorage
from tests.faults.strict_disk import strict_disk


def test_a_data_dir_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog is not safe there: it is said before anything is made in the folder."""
    monkeypatch.setattr("chunkyd.mounts.NETWORK", frozenset({file_system(str(tmp_path))}))
    with pytest.raises(StateError, match="network file system"), open_stores(str(tmp_path / "data")):
        pass
    assert os.listdir(tmp_path) == []


def test_a_file_system_that_folds_case_is_refused(tmp_path: Path) -> None:
    """Two files whose names differ in case only would replace each other there, and both be reported complete."""
    with strict_disk(tmp_path / "disk") as disk:
        DiskStorage(str(disk.path / "data")).close()
        disk.names(folds_case=True)
        with pytest.raises(StateError, match="does not tell a from A"):
            DiskStorage(str(disk.path / "data"))
        assert os.listdir(disk.path / "data" / "partial") == []
