"""One big file, start-up included, beside its peers."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from benchmarks.contenders import CHUNKY, CHUNKY_LOADED, RSYNC, RSYNC_SYNCED
from benchmarks.harness import MEBIBYTE, beside_peers
from benchmarks.peers import NEVER_MEASURED, OTHERS
from benchmarks.rows import Findings, at_most_of_peer

GOAL = 0.75  # of rsync --fsync's wall seconds, with hashing while sending
CONTENDERS = (CHUNKY, RSYNC_SYNCED, CHUNKY_LOADED, RSYNC, *OTHERS)
TITLE = "One big file"
ABOUT = "1 GiB of random bytes to a receiver that has seen nothing. Once more with the sender loaded before."


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """1 GiB; 64 MiB when quick."""
    mebibytes = 64 if quick else 1024
    source = work / "big"
    source.mkdir()
    with (source / "file.bin").open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(MEBIBYTE))
    found = beside_peers(CONTENDERS, at_most_of_peer(GOAL), source, work, pairs, mebibytes * MEBIBYTE, every=3)
    return replace(found, missing=(*found.missing, *NEVER_MEASURED))
