"""`make network`: faults of the network that take their time, because half a minute of silence is one of them."""

from __future__ import annotations

import pytest

from tests.faults.storm import Storm
from tests.faults.test_network_matrix import scripts

SILENT = scripts(("silence",))


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    """Every connection whose other end is dead without a word, at once: each is given up after 30 s."""
    return Storm(tmp_path_factory.mktemp("silent"), SILENT).rage(150)


@pytest.mark.parametrize("name", SILENT)
def test_a_peer_that_falls_silent(silent: Storm, name: str) -> None:
    """The same where neither end is told: both give up what did not move for 30 s."""
    silent.check(name, interruptions=len(SILENT[name]))
