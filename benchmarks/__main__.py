"""`python -m benchmarks [--only NAME] [--pairs N] [--quick]`: measure, print, keep the figures as JSON.

Without --quick docs/performance.md is written anew from all the figures that are kept.
"""

from __future__ import annotations

import argparse
import compileall
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Protocol

import msgspec

import chunkyd
from benchmarks import (
    big_file,
    dropped,
    folders,
    growth,
    jobs,
    limit,
    link,
    memory,
    queued,
    report,
    resume,
    scale,
    sizes,
    small_files,
    starts,
)
from benchmarks.machine import this_machine
from benchmarks.rows import Document, Findings

RESULTS = Path(__file__).parent / "results"
PACKAGE = Path(chunkyd.__file__).parent


class Benchmark(Protocol):
    """A module of this package that measures."""

    __name__: str
    TITLE: str
    ABOUT: str

    def run(self, work: Path, pairs: int, quick: bool) -> Findings:
        """Measure, with data in the folder `work`, `pairs` times over where that is not too dear."""
        ...


MODULES: tuple[Benchmark, ...] = (
    big_file,
    small_files,
    sizes,
    dropped,
    resume,
    jobs,
    starts,
    queued,
    folders,
    memory,
    limit,
    growth,
    link,
    scale,
)
BENCHMARKS = {module.__name__.rpartition(".")[2]: module for module in MODULES}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=list(BENCHMARKS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="little data: shows that it runs, not how fast")
    parser.add_argument("--work", type=Path, help="a folder for the data (default: a temporary one)")
    parser.add_argument("--report", action="store_true", help="measure nothing; write the page from what is kept")
    return parser.parse_args()


def _measure(name: str, benchmark: Benchmark, arguments: argparse.Namespace) -> Document:
    load, start = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chunky-benchmark-", dir=arguments.work) as work:
        findings = benchmark.run(Path(work), arguments.pairs, arguments.quick)
        machine = this_machine(Path(work))
    return Document(
        name=name,
        title=benchmark.TITLE,
        about=benchmark.ABOUT,
        quick=arguments.quick,
        command=f"python -m benchmarks --only {name} --pairs {arguments.pairs}"
        + (" --quick" if arguments.quick else ""),
        date=time.strftime("%Y-%m-%d %H:%M"),
        seconds=time.monotonic() - start,
        load=load,
        machine=machine,
        findings=findings,
    )


def _show(document: Document) -> None:
    print(f"{document.title} ({document.seconds:.0f} s)")
    for row in document.findings.rows:
        print(f"  {report.shown(row)}")
    for sentence in document.findings.missing:
        print(f"  missing: {sentence}")


def _keep(document: Document) -> None:
    RESULTS.mkdir(exist_ok=True)
    suffix = "-quick" if document.quick else ""
    text = msgspec.json.format(msgspec.json.encode(document), indent=1)
    (RESULTS / f"{document.name}{suffix}.json").write_bytes(text + b"\n")


def main() -> None:
    """Every benchmark, or the one asked for."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    # As pip does when it installs: else, where PYTHONDONTWRITEBYTECODE is set, each start would compile all anew.
    compileall.compile_dir(PACKAGE, quiet=1)
    for name, benchmark in BENCHMARKS.items():
        if not arguments.report and arguments.only in (None, name):
            document = _measure(name, benchmark, arguments)
            _show(document)
            _keep(document)
    if not arguments.quick:
        report.write(RESULTS, list(BENCHMARKS))


if __name__ == "__main__":
    main()
