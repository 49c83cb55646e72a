"""Many small files, start-up included, beside rsync."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.contenders import CHUNKY, RSYNC, RSYNC_SYNCED
from benchmarks.harness import Row, in_pairs

GOAL = 0.9  # of rsync --fsync's wall seconds
TITLE = "Many small files"


def run(work: Path, pairs: int, quick: bool) -> list[Row]:
    """2,000 files of 16 KiB; 200 when quick."""
    source = work / "small"
    source.mkdir()
    for number in range(200 if quick else 2000):
        (source / f"{number:05}.bin").write_bytes(os.urandom(16384))
    return in_pairs([CHUNKY, RSYNC_SYNCED, RSYNC], source, work, pairs)
