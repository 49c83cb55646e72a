"""Housekeeping at regular times: at least every min(TTL, 60 s), in fact more often, since a round is cheap."""

from __future__ import annotations

import asyncio
import logging

from chunkyd.errors import ChunkyError
from chunkyd.server.uploads import Uploads

MOST_SECONDS = 10.0
LEAST_SECONDS = 0.25

log = logging.getLogger("chunkyd.server")


async def keep_house(uploads: Uploads, ttl: float) -> None:
    """Tick for ever; what fails, a full disk above all, is tried again at the next round."""
    pause = max(LEAST_SECONDS, min(MOST_SECONDS, ttl / 2))
    while True:
        await asyncio.sleep(pause)
        try:
            await uploads.tick()
        except (ChunkyError, OSError) as error:
            log.warning("housekeeping: %s", error)
