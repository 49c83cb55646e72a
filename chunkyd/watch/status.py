"""How a folder fares, in words: the one trouble that matters most, and what mends it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from chunkyd.protocol.paths import readable
from chunkyd.watch.observer import watch_limit
from chunkyd.watch.outbox import Backoff
from chunkyd.watch.tree import Tree

_UNKNOWN_LIMIT = 8192
_NAMED = 3


class Trouble(msgspec.Struct, frozen=True):
    """What is wrong, and what to do about it."""

    problem: str
    mend: str


def missing(problem: str) -> Trouble:
    """The root is not there."""
    return Trouble(problem, "Its uploads are held, and go on by themselves when the folder is back.")


def worst(backoff: Backoff, no_inotify: str, tree: Tree | None, unreadable: Mapping[bytes, str]) -> Trouble | None:
    """The trouble of a folder that is there, if it has any."""
    if backoff.error is not None:
        return Trouble(f"changes wait to be recorded: {backoff.error.what}", backoff.error.mend)
    if no_inotify:
        return Trouble(
            f"file events are not to be had ({no_inotify}); the folder is polled",
            "Raise the sysctl fs.inotify.max_user_instances and restart.",
        )
    if tree is not None and tree.unwatched:
        return _unwatched(tree)
    if unreadable:
        return _unreadable(unreadable)
    return None


def _unwatched(tree: Tree) -> Trouble:
    count = len(tree.unwatched)
    problem = f"{count} of {count + tree.watched} directories cannot be watched; these are polled"
    if not tree.limit_reached:
        return Trouble(problem, "Look at their permissions and at the kernel's log.")
    return Trouble(problem, f"Raise the limit: sysctl fs.inotify.max_user_watches={_needed(count)}")


def _needed(missing_watches: int) -> int:
    """A limit that has room for them, and for growth."""
    wanted = (watch_limit() or _UNKNOWN_LIMIT) + missing_watches
    return 1 << (wanted * 9 // 8).bit_length()


def _unreadable(unreadable: Mapping[bytes, str]) -> Trouble:
    named = [f"{readable(path) or '.'} ({why})" for path, why in list(unreadable.items())[:_NAMED]]
    more = ", and more" if len(unreadable) > _NAMED else ""
    return Trouble(
        f"cannot be read: {', '.join(named)}{more}",
        "Let the daemon's user read them, or exclude them; the rest of the folder is watched.",
    )
