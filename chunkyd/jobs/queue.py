"""The durable queue: what is to be sent, who sends it, and what became of it.

    tables = open_tables(path, clock).tables
    queue = Queue(tables, clock, settings.uploads.retry, on_change=pool.wake)
    queue.recover(run_id)

Every method may be called from any thread and returns when it is recorded; each change of a job is one compare-and-set
in one transaction. Raises StorageFull (nothing was recorded) and StateError. `on_change` is called after each commit
that may give or take away work. The parts: offers (in), claims (who works), gates (what holds), steps (the worker),
wishes (the user), destination (to whom), listing (what is shown), upkeep.
"""

from __future__ import annotations

from chunkyd.jobs.claims import Claims
from chunkyd.jobs.destination import Destination
from chunkyd.jobs.gates import Gates
from chunkyd.jobs.listing import Listing
from chunkyd.jobs.steps import Steps
from chunkyd.jobs.upkeep import Upkeep
from chunkyd.jobs.wishes import Wishes


class Queue(Steps, Claims, Gates, Wishes, Destination, Listing, Upkeep):
    """All of it over one table."""
