"""The kernel's FUSE protocol (linux/fuse.h, 7.31), as much of it as a file system of the tests needs; no library.

`mounted` gives the open device; `serve` answers one request after the other, by calling an `Operations`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import stat
import struct
from array import array
from typing import Any, Protocol

from tests.faults.strict_model import Inode

MAX_WRITE = 1 << 20
_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
_STATFS = struct.Struct("<QQQQQIIII24x")
_INIT_OUT = struct.Struct("<IIIIHHIIHHII24x")
_ASYNC_READ, _BIG_WRITES, _MAX_PAGES = 1, 1 << 5, 1 << 22
UNCACHED = 1  # of an open file: every read asks the file system (FOPEN_DIRECT_IO)
REMEMBERED = 3600  # seconds, for names and attributes that change through the kernel only
_NS = 10**9


class Operations(Protocol):
    """What a file system does; OSError is the answer where it cannot."""

    def lookup(self, folder: int, name: bytes) -> Inode: ...
    def inode(self, number: int) -> Inode: ...
    def set_attributes(self, number: int, wanted: dict[str, int]) -> Inode: ...
    def make(self, folder: int, name: bytes, mode: int, owner: tuple[int, int], target: bytes = b"") -> Inode: ...
    def unlink(self, folder: int, name: bytes) -> None: ...
    def rmdir(self, folder: int, name: bytes) -> None: ...
    def rename(self, folder: int, name: bytes, other: int, new: bytes, flags: int) -> None: ...
    def link(self, number: int, folder: int, name: bytes) -> Inode: ...
    def open(self, number: int) -> int: ...
    def release(self, number: int) -> None: ...
    def read(self, number: int, offset: int, size: int) -> bytes: ...
    def write(self, number: int, offset: int, content: memoryview) -> int: ...
    def sync(self, number: int, data_only: bool) -> None: ...
    def allocate(self, number: int, offset: int, length: int, mode: int) -> None: ...
    def room(self) -> tuple[int, int]: ...


def mounted(point: str) -> int:
    """Mount at this folder; the device. OSError where that is not allowed here."""
    if os.geteuid() != 0:
        return _by_helper(point)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"strict", os.fsencode(point), b"fuse.strict", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    return device


def _by_helper(point: str) -> int:
    helper = shutil.which("fusermount3")
    if helper is None:
        raise OSError(errno.EPERM, "no root, and no fusermount3")
    ours, its = socket.socketpair()
    with ours, its:
        os.set_inheritable(its.fileno(), True)
        command = [helper, "-o", "default_permissions,subtype=strict,fsname=strict", "--", point]
        done = os.spawnve(os.P_WAIT, helper, command, {**os.environ, "_FUSE_COMMFD": str(its.fileno())})
        if done:
            raise OSError(errno.EPERM, "fusermount3")
        _, attached, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
        return array("i", attached[0][2][:4])[0]


class Connection:
    """One mount: requests come in, answers go out."""

    def __init__(self, device: int, operations: Operations) -> None:
        self.device = device
        self._do = operations
        self._buffer = bytearray(MAX_WRITE + 8192)
        self._listings: dict[int, list[tuple[bytes, int, int]]] = {}
        self._next_handle = 0
        self.remembered = REMEMBERED  # for how many seconds the kernel may answer from memory

    def serve(self) -> bool:
        """One request; False where the mount is gone."""
        try:
            length = os.readv(self.device, [self._buffer])
        except OSError as error:
            return error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT)
        _, opcode, unique, node, uid, gid, _, _ = _IN.unpack_from(self._buffer)
        body = memoryview(self._buffer)[_IN.size : length]
        handler = _HANDLERS.get(opcode)
        if handler is None:
            if opcode not in _SILENT:
                self._answer(unique, -errno.ENOSYS)
            return True
        try:
            answer = handler(self, node, body, (uid, gid))
        except OSError as error:
            self._answer(unique, -(error.errno or errno.EIO))
        else:
            self._answer(unique, 0, answer or b"")
        return True

    def _answer(self, unique: int, error: int, body: bytes = b"") -> None:
        try:
            os.writev(self.device, [_OUT.pack(_OUT.size + len(body), error, unique), body])
        except OSError as failed:
            if failed.errno not in (errno.ENOENT, errno.ENODEV):  # whoever asked was killed; or unmounted
                raise

    def _entry(self, inode: Inode) -> bytes:
        return struct.pack("<QQQQII", inode.number, 0, self.remembered, self.remembered, 0, 0) + _packed(inode)

    def _with_attributes(self, inode: Inode) -> bytes:
        return struct.pack("<QII", self.remembered, 0, 0) + _packed(inode)

    def _init(self, _: int, body: memoryview, __: object) -> bytes:
        readahead = struct.unpack_from("<IIII", body)[2]
        flags = _ASYNC_READ | _BIG_WRITES | _MAX_PAGES
        return _INIT_OUT.pack(7, 31, readahead, flags, 64, 48, MAX_WRITE, 1, MAX_WRITE // 4096, 0, 0, 0)

    def _lookup(self, node: int, body: memoryview, _: object) -> bytes:
        return self._entry(self._do.lookup(node, _names(body)[0]))

    def _getattr(self, node: int, _: memoryview, __: object) -> bytes:
        return self._with_attributes(self._do.inode(node))

    def _setattr(self, node: int, body: memoryview, _: object) -> bytes:
        valid, _, _, size, _, atime, mtime, _, ans, mns, _, mode, _, uid, gid, _ = _SETATTR.unpack_from(body)
        wanted: dict[str, int] = {}
        given = {1: ("mode", mode), 2: ("uid", uid), 4: ("gid", gid), 8: ("size", size)}
        given |= {16: ("accessed", _signed(atime) * _NS + ans), 32: ("modified", _signed(mtime) * _NS + mns)}
        for bit, (name, value) in given.items():
            if valid & bit:
                wanted[name] = value
        for bit, name in ((128, "accessed"), (256, "modified")):
            if valid & bit:
                wanted[name] = -1  # now
        return self._with_attributes(self._do.set_attributes(node, wanted))

    def _readlink(self, node: int, _: memoryview, __: object) -> bytes:
        return self._do.inode(node).attributes.target

    def _symlink(self, node: int, body: memoryview, owner: tuple[int, int]) -> bytes:
        name, target = _names(body)
        return self._entry(self._do.make(node, name, stat.S_IFLNK | 0o777, owner, target))

    def _mknod(self, node: int, body: memoryview, owner: tuple[int, int]) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        return self._entry(self._do.make(node, _names(body[16:])[0], mode, owner))

    def _mkdir(self, node: int, body: memoryview, owner: tuple[int, int]) -> bytes:
        (mode,) = struct.unpack_from("<I", body)
        return self._entry(self._do.make(node, _names(body[8:])[0], stat.S_IFDIR | mode & 0o7777, owner))

    def _unlink(self, node: int, body: memoryview, _: object) -> None:
        self._do.unlink(node, _names(body)[0])

    def _rmdir(self, node: int, body: memoryview, _: object) -> None:
        self._do.rmdir(node, _names(body)[0])

    def _rename(self, node: int, body: memoryview, _: object) -> None:
        name, new = _names(body[8:])
        self._do.rename(node, name, struct.unpack_from("<Q", body)[0], new, 0)

    def _rename2(self, node: int, body: memoryview, _: object) -> None:
        other, flags = struct.unpack_from("<QI", body)
        name, new = _names(body[16:])
        self._do.rename(node, name, other, new, flags)

    def _link(self, node: int, body: memoryview, _: object) -> bytes:
        return self._entry(self._do.link(struct.unpack_from("<Q", body)[0], node, _names(body[8:])[0]))

    def _open(self, node: int, _: memoryview, __: object) -> bytes:
        return struct.pack("<QII", node, self._do.open(node), 0)

    def _create(self, node: int, body: memoryview, owner: tuple[int, int]) -> bytes:
        _, mode = struct.unpack_from("<II", body)
        inode = self._do.make(node, _names(body[16:])[0], stat.S_IFREG | mode & 0o7777, owner)
        return self._entry(inode) + struct.pack("<QII", inode.number, self._do.open(inode.number), 0)

    def _release(self, node: int, _: memoryview, __: object) -> None:
        self._do.release(node)

    def _read(self, node: int, body: memoryview, _: object) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return self._do.read(node, offset, size)

    def _write(self, node: int, body: memoryview, _: object) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", self._do.write(node, offset, body[40 : 40 + size]), 0)

    def _fsync(self, node: int, body: memoryview, _: object) -> None:
        self._do.sync(node, bool(struct.unpack_from("<QI", body)[1] & 1))

    def _fsync_folder(self, node: int, _: memoryview, __: object) -> None:
        self._do.sync(node, data_only=False)

    def _allocate(self, node: int, body: memoryview, _: object) -> None:
        _, offset, length, mode = struct.unpack_from("<QQQI", body)
        self._do.allocate(node, offset, length, mode)

    def _statfs(self, _: int, __: memoryview, ___: object) -> bytes:
        blocks, free = self._do.room()
        return _STATFS.pack(blocks, free, free, 1 << 20, 1 << 20, 4096, 255, 4096, 0)

    def _opendir(self, node: int, _: memoryview, __: object) -> bytes:
        folder = self._do.inode(node)
        listing = [(b".", node, stat.S_IFDIR), (b"..", node, stat.S_IFDIR)]
        for name, number in folder.entries.items():
            listing.append((name, number, self._do.inode(number).attributes.mode))
        self._next_handle += 1
        self._listings[self._next_handle] = listing
        return struct.pack("<QII", self._next_handle, 0, 0)

    def _readdir(self, _: int, body: memoryview, __: object) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        parts, length = [], 0
        for place, (name, number, mode) in enumerate(self._listings[handle][offset:], offset + 1):
            padded = (24 + len(name) + 7) // 8 * 8
            if length + padded > size:
                break
            parts.append((struct.pack("<QQII", number, place, len(name), mode >> 12) + name).ljust(padded, b"\0"))
            length += padded
        return b"".join(parts)

    def _releasedir(self, _: int, body: memoryview, __: object) -> None:
        self._listings.pop(struct.unpack_from("<Q", body)[0], None)

    def _nothing(self, _: int, __: memoryview, ___: object) -> None:
        """Answered, and no more."""


_SILENT = frozenset({2, 36, 42})  # forget, interrupt, batch forget: no answer is expected
_HANDLERS: dict[int, Any] = {
    1: Connection._lookup,
    3: Connection._getattr,
    4: Connection._setattr,
    5: Connection._readlink,
    6: Connection._symlink,
    8: Connection._mknod,
    9: Connection._mkdir,
    10: Connection._unlink,
    11: Connection._rmdir,
    12: Connection._rename,
    13: Connection._link,
    14: Connection._open,
    15: Connection._read,
    16: Connection._write,
    17: Connection._statfs,
    18: Connection._release,
    20: Connection._fsync,
    25: Connection._nothing,
    26: Connection._init,
    27: Connection._opendir,
    28: Connection._readdir,
    29: Connection._releasedir,
    30: Connection._fsync_folder,
    35: Connection._create,
    38: Connection._nothing,
    43: Connection._allocate,
    45: Connection._rename2,
}


def _names(body: memoryview) -> list[bytes]:
    return bytes(body).split(b"\0")[:-1]


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number


def _packed(inode: Inode) -> bytes:
    has = inode.attributes
    size = len(has.target) if stat.S_ISLNK(has.mode) else len(inode.data)
    seconds = [moment // _NS % (1 << 64) for moment in (has.accessed, has.modified, has.changed)]
    rest = [moment % _NS for moment in (has.accessed, has.modified, has.changed)]
    blocks = (size + 511) // 512
    return _ATTRIBUTES.pack(
        inode.number, size, blocks, *seconds, *rest, has.mode, inode.links, has.uid, has.gid, 0, 4096, 0
    )
