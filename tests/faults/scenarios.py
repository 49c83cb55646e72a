"""Which scenario leads to which checkpoint. One scenario serves many; each checkpoint has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Scenario = Callable[[Path, str], None]

SCENARIOS: dict[str, Scenario] = {}
ARRIVALS: dict[str, int] = {}


def at(names: str) -> Callable[[Scenario], Scenario]:
    """The scenario leads to these checkpoints; `name*3`: it comes by at least three times."""

    def register(scenario: Scenario) -> Scenario:
        for each in names.split():
            name, _, arrivals = each.partition("*")
            assert name not in SCENARIOS, name
            SCENARIOS[name], ARRIVALS[name] = scenario, int(arrivals or 1)
        return scenario

    return register
