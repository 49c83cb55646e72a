"""One big file, start-up included, beside rsync."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.contenders import CHUNKY, RSYNC, RSYNC_SYNCED
from benchmarks.harness import MEBIBYTE, in_pairs
from benchmarks.rows import Findings, at_most_of_peer

GOAL = 0.75  # of rsync --fsync's wall seconds, with hashing while sending
TITLE = "One big file"
ABOUT = "1 GiB of random bytes to a receiver that has seen nothing."


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """1 GiB; 64 MiB when quick."""
    mebibytes = 64 if quick else 1024
    source = work / "big"
    source.mkdir()
    with (source / "file.bin").open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MEBIBYTE))
    size = mebibytes * MEBIBYTE
    ours, synced, *others = in_pairs([CHUNKY, RSYNC_SYNCED, RSYNC], source, work, pairs, 3 * size)
    rows = [
        ours.row(size, synced, at_most_of_peer(GOAL)),
        synced.row(size),
        *(each.row(size, synced) for each in others),
    ]
    return Findings(rows=tuple(rows))
