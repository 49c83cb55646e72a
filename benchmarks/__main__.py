"""`python -m benchmarks [--only NAME] [--pairs N] [--quick]`: measure, print, keep the figures as JSON.

Without --quick docs/performance.md is written anew from all the figures that are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import big_file, report, small_files
from benchmarks.harness import Row

RESULTS = Path(__file__).parent / "results"
Measurement = Callable[[Path, int, bool], list[Row]]
BENCHMARKS: dict[str, tuple[str, float, Measurement]] = {
    "big_file": (big_file.TITLE, big_file.GOAL, big_file.run),
    "small_files": (small_files.TITLE, small_files.GOAL, small_files.run),
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=sorted(BENCHMARKS))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="little data: shows that it runs, not how fast")
    parser.add_argument("--work", type=Path, help="a folder for the data (default: a temporary one)")
    return parser.parse_args()


def _show(title: str, goal: float, rows: list[Row]) -> None:
    print(f"{title}: the first row's goal is {goal} x the second's wall seconds")
    peer = rows[1].median.wall
    for row in rows:
        cost = f"CPU {row.median.client_cpu:.2f} s sending, {row.median.receiver_cpu:.2f} s receiving"
        print(f"  {row.name:26} {row.median.wall:6.2f} s  ratio {row.median.wall / peer:.2f}  {cost}", end="")
        print(f"  verifies: {row.verifies}; durable: {row.durable}")


def _keep(name: str, title: str, quick: bool, goal: float, rows: list[Row]) -> None:
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "rsync": subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=True).stdout.split()[2],
    }
    figures = {"quick": quick, "goal": goal, "date": time.strftime("%Y-%m-%d %H:%M"), "load": os.getloadavg()[0]}
    document = {"name": name, "title": title, **figures, "machine": machine, "rows": [row.as_json() for row in rows]}
    suffix = "-quick" if quick else ""
    (RESULTS / f"{name}{suffix}.json").write_text(json.dumps(document, indent=1) + "\n")


def main() -> None:
    """Every benchmark, or the one asked for."""
    arguments = _arguments()
    for name, (title, goal, measurement) in BENCHMARKS.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory(prefix="chunky-benchmark-", dir=arguments.work) as work:
                rows = measurement(Path(work), arguments.pairs, arguments.quick)
            _show(title, goal, rows)
            _keep(name, title, arguments.quick, goal, rows)
    if not arguments.quick:
        report.write(RESULTS)


if __name__ == "__main__":
    main()
