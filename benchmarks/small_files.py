"""Many small files, start-up included, beside its peers."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from benchmarks.contenders import CHUNKY, RSYNC, RSYNC_SYNCED
from benchmarks.harness import beside_peers
from benchmarks.peers import NEVER_MEASURED, OTHERS
from benchmarks.rows import Findings, at_most_of_peer

GOAL = 0.9  # of rsync --fsync's wall seconds
CONTENDERS = (CHUNKY, RSYNC_SYNCED, RSYNC, *OTHERS)
TITLE = "Many small files"
ABOUT = "2,000 files of 16 KiB to a receiver that has seen nothing."
SIZE = 16384


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """2,000 files of 16 KiB; 200 when quick."""
    number = 200 if quick else 2000
    source = work / "small"
    source.mkdir()
    for each in range(number):
        (source / f"{each:05}.bin").write_bytes(os.urandom(SIZE))
    found = beside_peers(CONTENDERS, at_most_of_peer(GOAL), source, work, pairs)
    return replace(found, missing=(*found.missing, *NEVER_MEASURED))
