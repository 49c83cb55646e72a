"""A disk for the tests, mounted by FUSE: its power can be cut at any change, and it fails on request.

A process of its own serves the mount (`python -m tests.faults.strict_disk MOUNTPOINT SEED`); `StrictDisk` steers it by
lines of JSON. What survives a power cut is said in `strict_model`. A disk without power answers nothing any more, so
that programs hang in the very step at which it happened, until they are killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fnmatch
import json
import os
import select
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fuse import UNCACHED, Connection, mounted
from tests.faults.strict_model import Change, Disk, Inode

_NO_REPLACE, _EXCHANGE = 1, 2
_KEEP_SIZE = 1
_BLOCKS = 1 << 28  # a terabyte, where no size is set
_DETACH = 2


class PowerOff(Exception):
    """From now on nothing is answered."""


class Files:
    """The operations of the file system over a `Disk`, with what goes wrong on purpose."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.changes = 0
        self.off_at: int | None = None
        self.size: int | None = None
        self.full = errno.ENOSPC
        self.rules: list[dict[str, Any]] = []
        self.open_flags = 0
        self.longest_name = 255
        self.folds_case = False

    def _met(self, what: str, path: bytes, *, change: bool = True) -> None:
        if change:
            self.changes += 1
            if self.off_at is not None and self.changes >= self.off_at:
                raise PowerOff
        for rule in self.rules:
            if what in rule["what"] and fnmatch.fnmatch(os.fsdecode(path), rule["paths"]):
                if rule["after"] > 0:
                    rule["after"] -= 1
                elif rule["times"] != 0:
                    rule["times"] -= 1
                    raise OSError(rule["error"], what)

    def _met_at(self, what: str, number: int, *, change: bool = True) -> Inode:
        inode = self.inode(number)
        self._met(what, self.disk.path(inode), change=change)
        return inode

    def _met_in(self, what: str, folder: int, name: bytes) -> Inode:
        above = self.inode(folder)
        self._met(what, os.path.join(self.disk.path(above), name))
        return above

    def inode(self, number: int) -> Inode:
        try:
            return self.disk.inodes[number]
        except KeyError:
            raise OSError(errno.ESTALE, "inode") from None

    def _name(self, name: bytes) -> bytes:
        """As the disk keeps it."""
        if len(name) > self.longest_name:
            raise OSError(errno.ENAMETOOLONG, "name")
        return name.lower() if self.folds_case else name

    def lookup(self, folder: int, name: bytes) -> Inode:
        number = self.inode(folder).entries.get(self._name(name))
        if number is None:
            raise OSError(errno.ENOENT, "lookup")
        return self.inode(number)

    def set_attributes(self, number: int, wanted: dict[str, int]) -> Inode:
        inode = self._met_at("attributes", number)
        inode.touch(modified=False)
        size = wanted.pop("size", None)
        if size is not None:
            inode.resize(size)
            inode.touch()
        for name, value in wanted.items():
            moment = name in ("accessed", "modified")
            found = inode.attributes.changed if value == -1 else value
            setattr(inode.attributes, name, found // inode.grain * inode.grain if moment else found)
        return inode

    def make(self, folder: int, name: bytes, mode: int, owner: tuple[int, int], target: bytes = b"") -> Inode:
        above = self._met_in("make", folder, name)
        name = self._name(name)
        if name in above.entries:
            raise OSError(errno.EEXIST, "make")
        self._room_for(1)
        inode = self.disk.make(mode, *owner, target)
        self.disk.enter(above, name, inode)
        return inode

    def unlink(self, folder: int, name: bytes) -> None:
        above = self._met_in("unlink", folder, name)
        self.lookup(folder, name)
        self.disk.leave(above, self._name(name))

    def rmdir(self, folder: int, name: bytes) -> None:
        above = self._met_in("rmdir", folder, name)
        if self.lookup(folder, name).entries:
            raise OSError(errno.ENOTEMPTY, "rmdir")
        self.disk.leave(above, self._name(name))

    def rename(self, folder: int, name: bytes, other: int, new: bytes, flags: int) -> None:
        above = self._met_in("rename", folder, name)
        name, new = self._name(name), self._name(new)
        moved, below = self.lookup(folder, name), self.inode(other)
        there = below.entries.get(new)
        if flags & _EXCHANGE:
            raise OSError(errno.EINVAL, "rename")
        if there is not None and flags & _NO_REPLACE:
            raise OSError(errno.EEXIST, "rename")
        if there == moved.number:
            return
        if there is not None and self.inode(there).entries:
            raise OSError(errno.ENOTEMPTY, "rename")
        given: Change = self.disk.enter(below, new, moved)
        self.disk.leave(above, name, needs=given)
        moved.place = (below.number, new)

    def link(self, number: int, folder: int, name: bytes) -> Inode:
        above, inode = self._met_in("link", folder, name), self.inode(number)
        name = self._name(name)
        if name in above.entries:
            raise OSError(errno.EEXIST, "link")
        self.disk.enter(above, name, inode)
        return inode

    def open(self, number: int) -> int:
        self._met_at("open", number, change=False).opened += 1
        return self.open_flags

    def release(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self.inode(number).opened -= 1

    def read(self, number: int, offset: int, size: int) -> bytes:
        return bytes(self._met_at("read", number, change=False).data[offset : offset + size])

    def write(self, number: int, offset: int, content: memoryview) -> int:
        inode = self._met_at("write", number)
        self._room_for(offset + len(content) - len(inode.data))
        inode.write(offset, content)
        inode.touch()
        return len(content)

    def sync(self, number: int, data_only: bool) -> None:
        inode = self._met_at("sync", number)
        if inode.is_folder:
            self.disk.sync_folder(inode)
        else:
            inode.sync(data_only=data_only)

    def allocate(self, number: int, offset: int, length: int, mode: int) -> None:
        inode = self._met_at("allocate", number)
        if mode & ~_KEEP_SIZE:
            raise OSError(errno.EOPNOTSUPP, "allocate")
        self._room_for(offset + length - len(inode.data))
        if not mode & _KEEP_SIZE and offset + length > len(inode.data):
            inode.resize(offset + length)
            inode.touch()

    def put(self, path: bytes, content: bytes) -> None:
        """A file with this content, written in place where there is one; nobody who looks is told."""
        folder, name = os.path.split(path)
        above = self.disk.find(folder)
        number = above.entries.get(name)
        inode = self.make(above.number, name, stat.S_IFREG | 0o644, (0, 0)) if number is None else self.inode(number)
        inode.resize(0)
        inode.write(0, content)
        inode.touch()

    def move(self, path: bytes, new: bytes) -> None:
        """Renamed, over whatever has the new name; nobody who looks is told."""
        (folder, name), (other, after) = os.path.split(path), os.path.split(new)
        self.rename(self.disk.find(folder).number, name, self.disk.find(other).number, after, 0)

    def _room_for(self, more: int) -> None:
        if self.size is not None and more > 0 and self.disk.used() + more > self.size:
            raise OSError(self.full, "room")

    def room(self) -> tuple[int, int]:
        if self.size is None:
            return _BLOCKS, _BLOCKS
        return self.size // 4096, max(0, self.size - self.disk.used()) // 4096


class Machine:
    """The process: the mount, and the lines that steer it."""

    def __init__(self, point: str, seed: int) -> None:
        self._point = point
        self._files = Files(Disk(seed))
        self._connection: Connection | None = None

    def run(self) -> None:
        """Until standard input ends."""
        self._mount()
        try:
            self._say({"mounted": True})
            while self._once():
                pass
        finally:
            self._unmount()

    def _once(self) -> bool:
        device = [] if self._connection is None else [self._connection.device]
        ready, _, _ = select.select([sys.stdin, *device], [], [])
        if self._connection is not None and self._connection.device in ready:
            self._serve()
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return False
            self._say(self._told(**json.loads(line)))
        return True

    def _serve(self) -> None:
        assert self._connection is not None
        try:
            if not self._connection.serve():
                os.close(self._connection.device)
                self._connection = None
        except PowerOff:
            self._dead, self._connection = self._connection, None

    _dead: Connection | None = None

    def _told(self, do: str, **how: Any) -> dict[str, Any]:
        files = self._files
        if do == "arm":
            files.off_at = None if how["after"] is None else files.changes + how["after"]
        elif do == "off":
            self._dead, self._connection = self._connection or self._dead, None
        elif do == "abort":
            self._unmount()
        elif do == "cut":
            self._unmount()
            files.off_at = None
            files.disk.power_cut(how["survival"])
            self._mount()
        elif do == "size":
            files.size, files.full = how["size"], how["error"]
        elif do == "fail":
            files.rules.append(how)
        elif do == "mend":
            files.rules, files.size = [], None
        elif do == "names":
            files.longest_name, files.folds_case = how["longest"], how["folds_case"]
        elif do == "uncached":
            files.open_flags = UNCACHED
        elif do == "remote":
            files.open_flags, files.disk.grain = UNCACHED, how["grain"]
            assert self._connection is not None
            self._connection.remembered = 0
        elif do == "put":
            files.put(os.fsencode(how["path"]), bytes.fromhex(how["content"]))
        elif do == "move":
            files.move(os.fsencode(how["path"]), os.fsencode(how["new"]))
        return {"off": self._connection is None, "changes": files.changes, "used": files.disk.used()}

    def _say(self, what: dict[str, Any]) -> None:
        print(json.dumps(what), flush=True)

    def _mount(self) -> None:
        device = mounted(self._point)
        os.set_blocking(device, False)
        self._connection = Connection(device, self._files)

    def _unmount(self) -> None:
        for connection in (self._connection, self._dead):
            if connection is not None:
                os.close(connection.device)  # whoever waits for an answer gets an error
        self._connection = self._dead = None
        if os.geteuid() == 0:
            ctypes.CDLL(None).umount2(os.fsencode(self._point), _DETACH)
        else:
            subprocess.run(["fusermount3", "-uzq", "--", self._point], check=False)


class StrictDisk:
    """The test's end: a mounted disk, at `path`."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        self.path = path
        path.mkdir()
        command = [sys.executable, "-m", "tests.faults.strict_disk", str(path), str(seed)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        assert self._answer() == {"mounted": True}

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the disk's process has ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def _tell(self, do: str, **how: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **how}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def is_off(self) -> bool:
        """Whether the power is gone."""
        return bool(self._tell("look")["off"])

    def changes(self) -> int:
        """How many changes it was asked for: writes, syncs, names."""
        return int(self._tell("look")["changes"])

    def used(self) -> int:
        """How many bytes are on it."""
        return int(self._tell("look")["used"])

    def arm(self, after: int | None) -> None:
        """The power goes at that many changes from now, before the last of them; None: it does not."""
        self._tell("arm", after=after)

    def off(self) -> None:
        """The power goes now."""
        self._tell("off")

    def cut(self, survival: float) -> None:
        """What was not synced survives with this probability, and power is back.

        Programs that use it have been sent SIGKILL; they are not waited for: they die only when it lets go of them.
        """
        self._tell("cut", survival=survival)

    def abort(self) -> None:
        """It is gone for good; who waits for an answer gets an error."""
        self._tell("abort")

    def limit(self, size: int, error: int = errno.ENOSPC) -> None:
        """There is room for so many bytes in all, whatever is there already."""
        self._tell("size", size=size, error=error)

    def fail(self, what: str, error: int, paths: str = "*", after: int = 0, times: int = -1) -> None:
        """These operations (read, write, sync, make, …) on these paths fail, so many times, after so many good ones."""
        self._tell("fail", what=what.split(), error=error, paths=paths, after=after, times=times)

    def read_only(self) -> None:
        """Nothing can be changed any more."""
        self.fail("attributes make unlink rmdir rename link write sync allocate", errno.EROFS)

    def names(self, longest: int = 255, *, folds_case: bool = False) -> None:
        """Names have so many bytes at most, as on an encrypted disk, or stand for those of other case too."""
        self._tell("names", longest=longest, folds_case=folds_case)

    def uncached(self) -> None:
        """Whoever opens a file from now on reads it from the disk each time, as one too big for any memory is read."""
        self._tell("uncached")

    def remote(self, grain: int) -> None:
        """As one that others write to, of whom no event tells (`put`, `move`); file times are so many ns apart.

        To be said before anything is on it.
        """
        self._tell("remote", grain=grain)

    def put(self, path: str, content: bytes) -> None:
        """Somebody else writes a file, in place where there is one."""
        self._tell("put", path=path, content=content.hex())

    def move(self, path: str, new: str) -> None:
        """Somebody else renames a file, over another if need be."""
        self._tell("move", path=path, new=new)

    def mend(self) -> None:
        """Nothing fails any more, and there is room."""
        self._tell("mend")

    def close(self) -> None:
        """Unmount."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        finally:
            self._process.kill()
            self._process.wait(20)
            assert self._process.stdout is not None
            self._process.stdout.close()


@contextlib.contextmanager
def strict_disk(path: Path, seed: int = 0) -> Iterator[StrictDisk]:
    """A disk at this path, gone at the end; skips where FUSE cannot be mounted."""
    try:
        disk = StrictDisk(path, seed)
    except AssertionError:
        if os.path.exists("/dev/fuse") and os.geteuid() == 0:
            raise
        pytest.skip("a file system in user space needs /dev/fuse, and root or fusermount3 (apt-get install fuse3)")
    try:
        yield disk
    finally:
        disk.close()


if __name__ == "__main__":
    Machine(sys.argv[1], int(sys.argv[2])).run()
