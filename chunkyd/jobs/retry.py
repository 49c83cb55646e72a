"""How long to wait before the next attempt or probe. Pure: the random number is handed in."""

from __future__ import annotations

_HIGHEST_POWER = 60  # beyond it 2**n times any base is more than any maximum


def delay(attempt: int, base: float, maximum: float, random: float, retry_after: float | None = None) -> float:
    """Seconds before the next attempt: full jitter below an exponentially growing ceiling.

    `attempt` is the number of the one that failed, from 1; `random` is in [0, 1). The server's Retry-After is a floor,
    even above the maximum.
    """
    ceiling = min(maximum, base * 2.0 ** min(max(attempt, 1) - 1, _HIGHEST_POWER))
    return max(random * ceiling, retry_after or 0.0)


def probe_delay(probe: int, base: float, maximum: float, random: float, retry_after: float | None = None) -> float:
    """Seconds before the next look whether the network or the server's disk is back; grows to `maximum`.

    A look is cheap and one alone, so it is spread by a quarter only: nobody waits twice the time for bad luck.
    """
    ceiling = min(maximum, base * 2.0 ** min(max(probe, 1) - 1, _HIGHEST_POWER))
    return max(ceiling * (1.0 - random / 4), retry_after or 0.0)
