"""One file of growing size: where start-up ends and the bytes begin to count."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from benchmarks.contenders import CHUNKY, RSYNC_SYNCED
from benchmarks.harness import MEBIBYTE, Runs, at_hand, in_pairs, random_file
from benchmarks.peers import CURL, TUS_JS
from benchmarks.rows import Chart, Findings, Row, Series

TITLE = "Time against size"
ABOUT = "One file of each size to a receiver that has seen nothing, start-up included."
SIZES = (1, 8, 64, 512)  # MiB


def run(work: Path, pairs: int, quick: bool) -> Findings:
    """Three pairs at most; the two smaller sizes, once, when quick."""
    contenders, missing = at_hand([CHUNKY, RSYNC_SYNCED, CURL, TUS_JS])
    found: dict[int, list[Runs]] = {}
    for mebibytes in SIZES[:2] if quick else SIZES:
        source = work / f"{mebibytes}MiB"
        source.mkdir()
        size = mebibytes * MEBIBYTE
        random_file(source / "file.bin", size)
        found[mebibytes] = in_pairs(contenders, source, work, 1 if quick else min(pairs, 3), size)
    rows = []
    for mebibytes, runs in found.items():
        for each in (runs[0], *runs[2:]):
            row = each.row(mebibytes * MEBIBYTE, runs[1])
            rows.append(_named(row, mebibytes))
        rows.append(_named(runs[1].row(mebibytes * MEBIBYTE), mebibytes))
    series = tuple(
        Series(each.name, tuple((float(size), runs[number].as_peer().figure) for size, runs in found.items()))
        for number, each in enumerate(contenders)
    )
    chart = Chart(
        name="performance-size",
        title="One file, start-up included",
        across="MiB",
        up="seconds",
        series=series,
        log_across=True,
        log_up=True,
    )
    return Findings(rows=tuple(rows), missing=missing, charts=(chart,))


def _named(row: Row, mebibytes: int) -> Row:
    return replace(row, name=f"{mebibytes} MiB, {row.name}")
