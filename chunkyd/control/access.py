"""Who may speak to the daemon: root, its own user, and the members of one group, by all groups of the peer's user.

The peer's own gid is not asked: it says which group its process runs as, not who is a member.
"""

from __future__ import annotations

import grp
import os
import pwd

from chunkyd.errors import ConfigError


def group_id(name: str) -> int:
    """The number of a group; ConfigError where there is none of this name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as error:
        mend = f"Create it with `groupadd --system {name}`, or name another"
        raise ConfigError(f"control.group: there is no group {name!r}", mend=mend) from error


def may_control(peer_uid: int, own_uid: int, group: int | None) -> bool:
    """Whether a process of this user may; looked up anew each time, so that a removed member is out at once."""
    if peer_uid in (0, own_uid):
        return True
    if group is None:
        return False
    try:
        user = pwd.getpwuid(peer_uid)
    except KeyError:
        return False
    return group in os.getgrouplist(user.pw_name, user.pw_gid)
