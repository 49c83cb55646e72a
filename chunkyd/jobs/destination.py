"""To whom everything is sent: what another server was sent, this one need not have."""

from __future__ import annotations

from chunkyd.checkpoints import reached
from chunkyd.jobs.core import Core

_URL = "SELECT url FROM identity"
# What was sent by a version that did not write down to whom, went to the first server that this one is told of.
_ARRIVED_HERE = "UPDATE jobs SET arrived_url = ? WHERE finished IS NULL AND arrived IS NOT NULL"
# FAIL, so that SQLite keeps no copy of all these rows to undo this one statement with: it would hold it in memory. What
# undoes it is the transaction.
_OFFER_AGAIN = "UPDATE OR FAIL known SET sent = 2 WHERE sent = 1"
# What failed there may go well here. What had arrived there, but could not be moved or deleted, is still in its folder;
# where a newer version of it waits, that one is enough.
TRY_AGAIN = (
    "UPDATE jobs SET state = 'queued', reason = NULL, attempts = 0, restarts = 0, probes = 0, arrived = NULL,"
    " arrived_url = NULL, updated = ?"
    " WHERE finished IS NULL AND state = 'failed' AND reason IN ('refused', 'restarts', 'after-upload')"
    " AND NOT EXISTS (SELECT 1 FROM jobs AS newer WHERE newer.folder = jobs.folder"
    " AND newer.directory = jobs.directory AND newer.name = jobs.name"
    " AND newer.finished IS NULL AND newer.id > jobs.id)"
)
# What the old server had no room for, or could not be reached for, need not wait until it would be asked again.
_GO_NOW = (
    "UPDATE jobs SET state = 'queued', reason = NULL, next_attempt = NULL, attempts = 0, probes = 0"
    " WHERE finished IS NULL AND arrived IS NULL"
    " AND (state = 'waiting' OR state = 'paused' AND reason IN ('auth', 'network', 'server', 'server-full'))"
)


class Destination(Core):
    """Whom the queue works for."""

    def send_to(self, url: str) -> str | None:
        """Everything goes to this server from now on; the URL of the one it went to before, where that is another.

        Whatever that one was sent is offered again as soon as a scan finds it, with its hash still known; jobs that
        failed there, or wait for it, are queued again; and what arrives there later, or is not finished yet, is queued
        for this one when it is done. One durable step: after a crash all of it holds, or none, and the next start says
        it again.
        """
        if self._sends_to() == url:
            return None
        with self._tables.transaction(durable=True):
            before = self._sends_to()
            self._tables.execute("UPDATE identity SET url = ?", (url,))
            if before is None:
                self._tables.execute(_ARRIVED_HERE, (url,))
            else:
                self._tables.execute(_OFFER_AGAIN)
                self._tables.execute(TRY_AGAIN, (self._clock.wall(),))
                self._tables.execute(_GO_NOW)
        reached("jobs.destination.recorded")
        self.on_change()
        return before

    def _sends_to(self) -> str | None:
        row = self._tables.one(_URL)
        return row[0] if row is not None else None
