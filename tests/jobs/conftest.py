"""A fresh queue for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkyd.clock import ManualClock
from chunkyd.jobs.queue import Queue
from tests.jobs.shared import check_table, open_queue


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(tmp_path: Path, clock: ManualClock) -> Iterator[Queue]:
    opened = open_queue(tmp_path, clock)
    yield opened
    check_table(opened)
    opened.close()
