"""What kind of file system a folder is on, and a refusal of those on which a database is not safe."""

from __future__ import annotations

import os

from chunkyd.errors import StateError

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ncpfs", "fuse.sshfs", "fuse.glusterfs"})


def refuse_network(what: str, folder: str, mend: str) -> None:
    """SQLite's log needs shared memory and honest locks: StateError where a network is in between."""
    kind = file_system(folder)
    if kind in NETWORK:
        raise StateError(f"{what} {folder} is on a network file system ({kind})", mend=mend)


def file_system(folder: str, mounts: str = "/proc/self/mountinfo") -> str:
    """The type of the file system a folder is on; empty where the system does not tell."""
    try:
        with open(mounts, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return ""
    real = os.fsencode(os.path.realpath(folder))
    found, longest = b"", -1
    for line in lines:
        fields, _, rest = line.partition(b" - ")
        point = _unescaped(fields.split(b" ")[4])
        inside = point in (b"/", real) or real.startswith(point + b"/")
        if inside and len(point) >= longest:  # of two mounts on one point the later covers the earlier
            found, longest = rest.split(b" ")[0], len(point)
    return found.decode("ascii", "replace")


def _unescaped(point: bytes) -> bytes:
    for escaped, plain in ((rb"\040", b" "), (rb"\011", b"\t"), (rb"\012", b"\n"), (rb"\134", b"\\")):
        point = point.replace(escaped, plain)
    return point
