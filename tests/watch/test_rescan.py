"""Reading one directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunkyd.watch.rescan import entries, open_directory


@pytest.mark.parametrize(("files", "batches"), [(0, 1), (1, 1), (499, 1), (500, 2), (1001, 3)])
def test_a_directory_comes_in_batches(tmp_path: Path, files: int, batches: int) -> None:
    """An empty one too: a tree of nothing but directories leaves time for other things as well."""
    for number in range(files):
        (tmp_path / str(number)).touch()
    descriptor = open_directory(os.fsencode(tmp_path), b"")
    try:
        found = list(entries(descriptor))
    finally:
        os.close(descriptor)
    assert len(found) == batches
    assert {name for batch in found for name, _ in batch.files} == {b"%d" % number for number in range(files)}
