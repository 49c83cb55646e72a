"""What stands between the queue and its workers: a hold of everything behind one probe, a folder whose root is away."""

from __future__ import annotations

import os

from chunkyd.checkpoints import reached
from chunkyd.jobs.core import Core
from chunkyd.jobs.holds import Held
from chunkyd.jobs.states import Reason


class Gates(Core):
    """Closing and opening them; `claim` looks at them, and so does what is shown."""

    def hold(self, reason: Reason, error: str) -> bool:
        """Hold the whole queue behind one probe (network, auth); False where it is held for this already."""
        held = self._holds.hold(reason, error, self._clock.wall(), self._clock.monotonic(), self.retry_settings)
        if held:
            self.on_change()
        return held

    def held(self) -> Held | None:
        """What holds the queue; `next_probe` (monotonic) is when the pool should ask again."""
        return self._holds.held()

    def probe_failed(self, reason: Reason, error: str) -> None:
        """The probe found it as it was."""
        self._holds.probe_failed(reason, error, self._clock.monotonic(), self.retry_settings)

    def probe_now(self) -> None:
        """Whatever holds the queue may be mended: the next probe is due at once."""
        self._holds.probe_now(self._clock.monotonic())
        self.on_change()

    def lift(self, reason: Reason) -> bool:
        """The queue goes on, and so do jobs paused one by one for this; False where it was not held."""
        lifted = self._holds.lift(reason)
        with self._tables.transaction():
            self._tables.execute(
                "UPDATE jobs SET state = 'queued', reason = NULL, next_attempt = NULL, attempts = 0, probes = 0"
                " WHERE finished IS NULL AND state = 'paused' AND reason = ?",
                (reason,),
            )
        reached("jobs.lifted")
        self.on_change()
        return lifted

    def root_missing(self, folder: str) -> None:
        """Hold the folder's jobs."""
        self._holds.set_missing(folder, missing=True)
        self.on_change()

    def root_back(self, folder: str) -> None:
        """Let the folder's jobs go on, those too that were paused one by one for want of their root."""
        self._holds.set_missing(folder, missing=False)
        with self._tables.transaction():
            self._tables.execute(
                "UPDATE jobs SET state = 'queued', reason = NULL, next_attempt = NULL"
                " WHERE finished IS NULL AND state = 'paused' AND reason = ? AND folder = ?",
                (Reason.ROOT_MISSING, os.fsencode(folder)),
            )
        reached("jobs.root.back")
        self.on_change()
