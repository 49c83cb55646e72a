"""Names as people, cameras and enemies give them; each is made once."""

from __future__ import annotations

import random

_SHAPES = (
    b"%d.mov",
    b"clip %d.mp4",
    b"-%d",
    b".hidden%d",
    b"new\nline %d",
    b"tab\t%d'\"`$(id)",
    b"100%% %d%%41",
    b"back\\slash %d",
    "füß – 写真 %d".encode(),
    "\N{GRINNING FACE}%d".encode(),
    b"not utf-8 \xff\xfe%d",
    b"trailing %d ",
    b"%d..",
    b"a;b&c=d?e#%d",
)


def name(chance: random.Random, number: int) -> bytes:
    """A file's or folder's name that no other has."""
    if chance.random() < 0.5:
        return b"f%d" % number
    if chance.random() < 0.05:
        return (b"long%d-" % number).ljust(255, b"x")
    return chance.choice(_SHAPES) % number
