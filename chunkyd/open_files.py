"""How many files this process may have open at once."""

from __future__ import annotations

import resource

from chunkyd.errors import EnvironmentFailure


def allow_open_files(enough: int, least: int, who: str) -> int:
    """Take all that the system lets us have; how many files may be open, `enough` at most.

    Raises EnvironmentFailure where that is fewer than `least`, without which `who` could not work.
    """
    soft, hard = (enough if found == resource.RLIM_INFINITY else found for found in _limits())
    if soft < min(hard, enough):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, _limits()[1]))
        soft = hard
    if soft < least:
        raise EnvironmentFailure(
            f"Only {soft} files may be open at once, {who} needs {least}", mend=f"Raise it: ulimit -n {least}"
        )
    return min(soft, enough)


def _limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)
