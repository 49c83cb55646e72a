"""One big file, start-up included, beside rsync."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.contenders import CHUNKY, RSYNC, RSYNC_SYNCED
from benchmarks.harness import Row, in_pairs

GOAL = 0.75  # of rsync --fsync's wall seconds, with hashing while sending
TITLE = "One big file"
MEBIBYTE = 1 << 20


def run(work: Path, pairs: int, quick: bool) -> list[Row]:
    """1 GiB; 64 MiB when quick."""
    mebibytes = 64 if quick else 1024
    source = work / "big"
    source.mkdir()
    with (source / "file.bin").open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MEBIBYTE))
    return in_pairs([CHUNKY, RSYNC_SYNCED, RSYNC], source, work, pairs, 3 * mebibytes * MEBIBYTE)
