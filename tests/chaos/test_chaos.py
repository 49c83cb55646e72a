"""A short chaos; `make chaos` runs it for as long as one likes."""

from __future__ import annotations

import time
from pathlib import Path

from tests.chaos.plan import plan
from tests.chaos.run import Run

SEED = 14


def test_short_chaos(tmp_path: Path) -> None:
    """Files change, programs die, the network fails, all at once; then everything is there, and nothing else."""
    run = Run(SEED, tmp_path / "chaos", seconds=10.0)
    run.epoch(0, deadline=time.monotonic())
    assert run.totals.rounds == 1
    assert run.totals.kills >= 5
    assert run.totals.faults


def test_a_seed_plans_the_same_again() -> None:
    """Acts, blows and faults come from the seed and the round's number alone."""
    one, other = plan(SEED, 3, 15.0), plan(SEED, 3, 15.0)
    assert one == other != plan(SEED, 4, 15.0)
    assert [one.fault(number) for number in range(500)] == [other.fault(number) for number in range(500)]
