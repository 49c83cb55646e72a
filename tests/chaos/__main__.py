"""`python -m tests.chaos --minutes 10 --seed 7`: until the time is over or the promise is broken.

A failure says the seed and the round, and keeps the folder: the programs' logs, databases and files, and the plans.
The same seed plans the same again; `--first` begins at the epoch of a later round.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.chaos.plan import ROUNDS_OF_AN_EPOCH
from tests.chaos.run import Run


def main() -> int:
    """Exit code 0 where everything held."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--seconds", type=float, default=15.0, help="of trouble in each round")
    parser.add_argument("--first", type=int, default=0, help="round to begin with, rounded down to its epoch")
    parser.add_argument("--folder", type=Path, help="where to work; by default a new temporary folder")
    wishes = parser.parse_args()
    base = wishes.folder or Path(tempfile.mkdtemp(prefix="chunkyd-chaos-"))
    run = Run(wishes.seed, base / f"seed-{wishes.seed}", wishes.seconds)
    print(f"seed {wishes.seed}, {wishes.minutes:g} minutes, in {run.folder}", flush=True)
    deadline = time.monotonic() + wishes.minutes * 60
    first = wishes.first - wishes.first % ROUNDS_OF_AN_EPOCH
    try:
        while time.monotonic() < deadline:
            run.epoch(first, deadline)
            first += ROUNDS_OF_AN_EPOCH
    except Exception:
        traceback.print_exc()
        plan = run.folder / f"plan-{run.number}.txt"
        print(f"BROKEN: seed {run.seed}, round {run.number}; plan {plan}, state in {run.folder}")
        print(f"again: python -m tests.chaos --seed {run.seed} --first {run.number} --seconds {wishes.seconds:g}")
        return 1
    if wishes.folder is None:
        shutil.rmtree(base)
    totals = run.totals
    print(
        f"held: seed {run.seed}: {totals.rounds} rounds, {totals.acts} acts on files, {totals.kills} kills,"
        f" {totals.stops} stops, {totals.faults} network faults, {totals.looks} looks at what was stored"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
