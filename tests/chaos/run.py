"""Round after round: trouble, quiet, and a look at everything."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

from tests.chaos.plan import ROUNDS_OF_AN_EPOCH, Round, bandwidth, keeps_old, plan
from tests.chaos.rest import Rest
from tests.chaos.source import Source
from tests.chaos.world import World


@dataclasses.dataclass
class Totals:
    """What a whole run was made of."""

    rounds: int = 0
    kills: int = 0
    stops: int = 0
    faults: int = 0
    acts: int = 0
    looks: int = 0  # at what the server had said was stored, after it was killed


class Run:
    """A seed's rounds, in a folder; `told` hears a line for each."""

    def __init__(self, seed: int, folder: Path, seconds: float) -> None:
        self.seed = seed
        self.folder = folder
        self.totals = Totals()
        self.number = 0
        self._seconds = seconds

    def epoch(self, first: int, deadline: float) -> None:
        """Some rounds in one new folder, which is removed if all went well. Not begun after the deadline."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        source = Source(self.folder)
        keep_old, most = keeps_old(self.seed, first), bandwidth(self.seed, first)
        with World(self.folder, keep_old=keep_old, bandwidth=most) as world:
            rest = Rest(world, source)
            for number in range(first, first + ROUNDS_OF_AN_EPOCH):
                self.number = number
                self._round(plan(self.seed, number, self._seconds), world, source, rest)
                if time.monotonic() >= deadline:
                    break
            rest.end()
        shutil.rmtree(self.folder)

    def _round(self, now: Round, world: World, source: Source, rest: Rest) -> None:
        (self.folder / f"plan-{now.number}.txt").write_text("\n".join(now.lines()) + "\n")
        before, looks = world.hits.copy(), world.stored.checks
        world.rage(now, lambda: _act(now, source, world))
        began = time.monotonic()
        world.hits["quiet"] += 1
        rest.come()
        hits = world.hits - before
        self.totals.looks += world.stored.checks - looks
        self._count(hits["kill"] + hits["term"], hits["stop"], hits["fault"], len(now.acts))
        size = sum(source.sizes.values()) >> 20
        print(
            f"round {now.number}: {len(now.acts)} acts, {hits['kill']} kills, {hits['term']} ends,"
            f" {hits['stop']} stops,"
            f" {hits['fault']} faults; {len(source.sizes)} files, {size} MiB; at rest after"
            f" {time.monotonic() - began:.1f} s; daemon {world.memory['daemon'] >> 20} MiB,"
            f" server {world.memory['server'] >> 20} MiB; {world.stored.checks} looks at what was stored,"
            f" {world.hits['abandoned']} sessions abandoned; sent in vain in this epoch: {rest.spare >> 20} of"
            f" {world.proxy.body_bytes >> 20} MiB",
            flush=True,
        )

    def _count(self, kills: int, stops: int, faults: int, acts: int) -> None:
        self.totals.rounds += 1
        self.totals.kills += kills
        self.totals.stops += stops
        self.totals.faults += faults
        self.totals.acts += acts


def _act(now: Round, source: Source, world: World) -> None:
    begun = time.monotonic()
    for act in now.acts:
        time.sleep(max(0.0, begun + act.at - time.monotonic()))
        world.hits["change"] += 1
        source.do(act)
    time.sleep(max(0.0, begun + now.seconds - time.monotonic()))
