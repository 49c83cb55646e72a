"""What will happen in a round: drawn from the seed and the round's number alone, so the same seed plans the same again.

Acts change files, blows hit programs, faults meet requests. Only the interleaving of the three is left to the machine.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Literal

from tests.upload.netfaults import Answer, Break, Corrupt, Cut, Fault, Stall, Swallow, Trickle, Twice

KIB, MIB = 1 << 10, 1 << 20
ROUNDS_OF_AN_EPOCH = 4  # then everything begins anew, in an empty folder

# How often each act comes; what it does says tests/chaos/source.py
ACTS = {
    "make": 20,
    "make_whole": 12,
    "make_many": 2,
    "make_again": 4,
    "grow": 10,
    "edit": 10,
    "truncate": 5,
    "replace": 8,
    "disguise": 5,
    "disguise_in_place": 4,
    "rename": 6,
    "swap": 3,
    "delete": 6,
    "touch": 3,
    "chmod": 2,
    "move_folder": 4,
    "delete_folder": 1,
    "become_folder": 2,
    "drop": 10,
    "drop_over": 4,
    "drop_grow": 4,
}
_SIZES = (
    (0, 0, 6),
    (1, 64 * KIB, 50),
    (64 * KIB, 3 * MIB, 30),
    (3 * MIB, 8 * MIB, 6),
    (8 * MIB, 12 * MIB, 8),  # from here on read once, where they hold still
    (12 * MIB, 36 * MIB, 2),
)
_ANSWERS = (200, 408, 425, 429, 500, 502, 503, 504)

Kind = Literal["kill", "term", "stop"]


@dataclasses.dataclass(frozen=True)
class Act:
    """Something done to the files; `number` picks the file and everything else that is left open."""

    at: float
    what: str
    number: int
    size: int


@dataclasses.dataclass(frozen=True)
class Blow:
    """A program is killed or told to end, and started again so many seconds later; or stopped, and goes on then."""

    at: float
    kind: Kind
    seconds: float


@dataclasses.dataclass(frozen=True)
class Round:
    """One round's plan; `requests` is how many of a thousand requests meet a fault."""

    seed: int
    number: int
    seconds: float
    acts: tuple[Act, ...]
    blows: dict[str, tuple[Blow, ...]]
    requests: int

    def fault(self, request: int) -> Fault | None:
        """What the nth request meets."""
        chance = random.Random(f"{self.seed}/{self.number}/request {request}")
        return _fault(chance) if chance.randrange(1000) < self.requests else None

    def delay(self, request: int) -> float:
        """How many seconds the nth request is held back."""
        chance = random.Random(f"{self.seed}/{self.number}/delay {request}")
        return chance.choice((0.005, 0.03, 0.1)) if chance.randrange(5) == 0 else 0.0

    def welcome(self, connection: int) -> str | None:
        """What the nth connection meets."""
        chance = random.Random(f"{self.seed}/{self.number}/connection {connection}")
        return chance.choice(("reset", "close")) if chance.randrange(2000) < self.requests else None

    def lines(self) -> list[str]:
        """For people."""
        timed = [(act.at, f"{act.what} {act.number} {act.size}") for act in self.acts]
        timed += [
            (blow.at, f"{program}: {blow.kind}, {blow.seconds:.2f} s")
            for program, blows in self.blows.items()
            for blow in blows
        ]
        return [f"{at:6.2f} {what}" for at, what in sorted(timed)]


def plan(seed: int, number: int, seconds: float) -> Round:
    """The plan of one round of so many seconds."""
    chance = random.Random(f"{seed}/{number}")
    pace = chance.choice((1.0, 4.0, 10.0))  # acts a second
    acts = [_act(chance, chance.uniform(0, seconds)) for _ in range(int(pace * seconds))]
    pause = chance.choice((0.7, 1.5, 3.0))  # seconds between two blows, on average
    return Round(
        seed=seed,
        number=number,
        seconds=seconds,
        acts=tuple(sorted(acts, key=lambda act: act.at)),
        blows={program: tuple(_blows(chance, seconds, pause)) for program in ("daemon", "server")},
        requests=chance.choice((0, 60, 250)),
    )


def bandwidth(seed: int, number: int) -> str:
    """What the daemon may use in the epoch of this round: with little, more uploads are cut in the middle."""
    chance = random.Random(f"{seed}/bandwidth {number // ROUNDS_OF_AN_EPOCH}")
    return chance.choice(("unlimited", "8MiB/s", "16MiB/s"))


def keeps_old(seed: int, number: int) -> bool:
    """Whether the server keeps old versions in the epoch of this round."""
    return random.Random(f"{seed}/epoch {number // ROUNDS_OF_AN_EPOCH}").random() < 0.7


def _act(chance: random.Random, at: float) -> Act:
    [what] = chance.choices(list(ACTS), list(ACTS.values()))
    [(least, most, _)] = chance.choices(_SIZES, [weight for *_, weight in _SIZES])
    return Act(at, what, chance.randrange(1 << 32), chance.randint(least, most))


def _blows(chance: random.Random, seconds: float, pause: float) -> list[Blow]:
    blows, at = [], 0.0
    while (at := at + chance.uniform(0.1, 2 * pause)) < seconds:
        [kind] = chance.choices(("kill", "term", "stop"), (8, 1, 1))
        blows.append(Blow(at, kind, chance.choice((0.0, 0.0, 0.2, 1.0)) if kind != "stop" else chance.uniform(0.1, 2)))
        at += blows[-1].seconds
    return blows


def _fault(chance: random.Random) -> Fault:
    size = chance.choice((0, 1, 1000, 100_000, 400_000))
    where = chance.choice(("head", "body", "work", "answer", "idle"))
    how = chance.choice(("reset", "close", "silence"))
    answer = Answer(
        chance.choice(_ANSWERS), headers=(("Content-Type", "text/html"), ("Retry-After", chance.choice("012")))
    )
    faults: list[Fault] = [
        Cut(size), Stall(size), Break(where, how), Break(where, how), Swallow(), Corrupt(size), Twice(),
        Trickle(0.002), answer,
    ]  # fmt: skip
    return chance.choice(faults)
