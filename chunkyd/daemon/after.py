"""What is done to a source after it has arrived: keep, delete or move, and only ever to the very bytes that were sent.

The order, and why it cannot touch what was not sent:
1. Open the source. Take a read lease: the kernel refuses it while anyone has the file open for writing, and takes it
   away when someone opens it so later. Only then compare: its fingerprint, change time included, is the one sent.
2. Rename it to a hidden name beside it, never replacing. From here on a new file under the old name is a new file and
   none of ours. The hidden name says whose it is: the job's number, the job table's identity, the file's own name.
3. Compare again: the hidden name is the open descriptor's inode, size and mtime are those that were sent (the rename
   itself changes ctime), nobody writes. Only then unlink or move; else rename back without replacing.
A crash after any step leaves the source, or the hidden name, or neither; the job is still `finishing`, and doing the
whole again ends or undoes what was begun. Where that job is no more (its table was lost), a scan gives the file its
name back: what is hidden need not be what was sent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from enum import StrEnum

from chunkyd.checkpoints import reached
from chunkyd.daemon.copying import copy_durably
from chunkyd.daemon.rename import rename_without_replacing, take_free_name
from chunkyd.daemon.writers import open_for_writing
from chunkyd.errors import SourceError
from chunkyd.files import Fingerprint, fingerprint, folder_below, fsync_directory, lstat_below, make_durable_folder
from chunkyd.names import LONGEST_NAME, cut, with_ending
from chunkyd.settings import Delete, Keep, Move
from chunkyd.upload.source import inodes_are_stable, is_in_memory

HIDDEN_PREFIX = b".chunkyd-sent-"
MOVING_PREFIX = b".chunkyd-moving-"
_HIDDEN = re.compile(rb"\.chunkyd-sent-(\d{1,18})-([0-9a-f]+)([-~])(.+)", re.DOTALL)  # "~": the own name did not fit
_READ_BYTES = 1 << 20
_TABLE_DIGITS = 12


class Outcome(StrEnum):
    """What became of the source."""

    KEPT = "kept"
    DELETED = "deleted"
    MOVED = "moved"
    LEFT = "left"  # it is no longer what was sent: the next version's job will see to it
    GONE = "gone"


class NotDone(SourceError):
    """It cannot be done: permission, a full disk. The source is where it was.

    `now` is the version it has there, where it was renamed and put back: the same bytes, of another ctime.
    """

    def __init__(self, what: str, now: Fingerprint | None) -> None:
        super().__init__(what, mend="nothing is lost; mend that and run `chunkyctl retry`")
        self.now = now


class BeingWritten(SourceError):
    """Somebody has it open for writing, and has written nothing since it was sent: to be looked at again.

    `now`: as in NotDone.
    """

    def __init__(self, policy: Keep | Delete | Move, now: Fingerprint | None = None) -> None:
        super().__init__(f"it has arrived, and is {_verb(policy)} once nobody has it open for writing")
        self.now = now


class _Opened(OSError):
    """Somebody may write to it by now."""


class _PutBack(Exception):
    """What was to be done failed, and the source has its name again; `now` as in NotDone."""

    def __init__(self, now: Fingerprint | None) -> None:
        super().__init__()
        self.now = now


def after_upload(
    root: bytes,
    below: bytes,
    job: tuple[int, str],
    sent: Fingerprint,
    policy: Keep | Delete | Move,
    sent_hash: Callable[[], str | None],
) -> Outcome:
    """Do what `policy` says to the file at the path `below` a root; safe to do again after a crash.

    `job`: its number, and the identity of the table that counts it. `sent_hash`: asked only where times prove nothing.

    Its folder is held open meanwhile: a link that takes the folder's place leads to no other file.
    Raises NotDone where it cannot be done, BeingWritten where not yet; the source is then where it was.
    """
    folder, name = os.path.split(below)
    hidden_name = hidden_for(name, *job, _longest_name(root))
    if isinstance(policy, Keep) and not _stands_below(root, os.path.join(folder, hidden_name)):
        return Outcome.KEPT
    try:
        with folder_below(root, folder) as opened:
            here = b"/proc/self/fd/%d/" % opened
            return _with_hidden_name(here + name, here + hidden_name, below, sent, policy, sent_hash)
    except (FileNotFoundError, NotADirectoryError):
        return Outcome.GONE
    except _PutBack as back:
        if isinstance(back.__cause__, _Opened):
            raise BeingWritten(policy, back.now) from back.__cause__
        raise NotDone(_cannot(policy, back.__cause__), back.now) from back.__cause__
    except OSError as error:
        raise NotDone(_cannot(policy, error), None) from error


def hidden_for(name: bytes, number: int, table: str, longest: int = LONGEST_NAME) -> bytes:
    """The hidden name of a job's file. The table tells apart jobs of one number, where a table was begun anew."""
    head = HIDDEN_PREFIX + b"%d-%s" % (number, table[:_TABLE_DIGITS].encode())
    whole = head + b"-" + name
    return whole if len(whole) <= longest else cut(head + b"~" + name, longest)


def is_hidden_for(path: bytes, source: bytes, number: int, table: str) -> bool:
    """Whether this hidden path is that of the job of this number in this table, whose file has the path `source`."""
    (folder, hidden), (own_folder, own) = os.path.split(path), os.path.split(source)
    found = _HIDDEN.fullmatch(hidden)
    if found is None or folder != own_folder:
        return False
    whole = found[3] == b"-"
    same_job = (int(found[1]), found[2]) == (number, table[:_TABLE_DIGITS].encode())
    return same_job and (own == found[4] if whole else own.startswith(found[4]))


def hiding_job(path: bytes) -> int:
    """The number of the job that a hidden path names; 0, which no job has, where it is none."""
    found = _HIDDEN.fullmatch(os.path.basename(path))
    return int(found[1]) if found else 0


def _longest_name(root: bytes) -> int:
    """What the file system takes; some take less than others (eCryptfs: 143)."""
    try:
        return min(LONGEST_NAME, os.pathconf(root, "PC_NAME_MAX"))
    except OSError:
        return LONGEST_NAME


def give_back(root: bytes, path: bytes) -> bytes | None:
    """Give a hidden file its own name again, or one beside it, and never replace anything; the name it has now.

    None where it is not there any more. Raises OSError where it cannot be done.
    """
    folder, hidden = os.path.split(path)
    found = _HIDDEN.fullmatch(hidden)
    if found is None:
        return None
    try:
        with folder_below(root, folder) as opened:
            here = b"/proc/self/fd/%d/" % opened
            return os.path.basename(_put_back(here + hidden, here + found[4]))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _cannot(policy: Keep | Delete | Move, error: BaseException | None) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return f"it has arrived, but could not be {_verb(policy)}: {reason}"


def _stands_below(root: bytes, path: bytes) -> bool:
    try:
        lstat_below(root, path)
    except OSError:
        return False
    return True


def _with_hidden_name(
    source: bytes,
    hidden: bytes,
    below: bytes,
    sent: Fingerprint,
    policy: Keep | Delete | Move,
    sent_hash: Callable[[], str | None],
) -> Outcome:
    left_behind = os.path.lexists(hidden)
    with _opened(hidden if left_behind else source) as descriptor:
        if not left_behind:
            written = _being_written(descriptor)  # first: an edit before the lease is seen, one after it asks for it
            now = fingerprint(os.fstat(descriptor))
            if not sent.same_version(now, stable_inodes=inodes_are_stable(descriptor)):
                return Outcome.LEFT
            if written:
                raise BeingWritten(policy)
            reached("daemon.after.hiding")
            rename_without_replacing(source, hidden)
            reached("daemon.after.hidden")
        return _carry_out(descriptor, source, hidden, below, sent, policy, sent_hash)


def _verb(policy: Keep | Delete | Move) -> str:
    return "moved" if isinstance(policy, Move) else "deleted" if isinstance(policy, Delete) else "put back"


def _carry_out(
    descriptor: int,
    source: bytes,
    hidden: bytes,
    below: bytes,
    sent: Fingerprint,
    policy: Keep | Delete | Move,
    sent_hash: Callable[[], str | None],
) -> Outcome:
    # Another file may have been put under the source's name just before the rename: what is hidden now decides.
    if not _is_version(descriptor, hidden, sent) or isinstance(policy, Keep):
        _put_back(hidden, source)
        return Outcome.KEPT if isinstance(policy, Keep) else Outcome.LEFT
    try:
        if _being_written(descriptor):
            raise _Opened
        if is_in_memory(descriptor) and _sha256(descriptor) != sent_hash():
            # Written through a mapping while it was read. Its times are those that were sent, so a scan alone would
            # not find it: the renames have given it another change time, and with that it is a new version.
            _put_back(hidden, source)
            return Outcome.LEFT
        if isinstance(policy, Move):
            return _move(descriptor, hidden, os.path.join(os.fsencode(policy.folder), below), sent)
        reached("daemon.delete.deciding")
        os.unlink(hidden)
        reached("daemon.delete.deleted")
        fsync_directory(os.path.dirname(hidden))
        reached("daemon.delete.synced")
        return Outcome.DELETED
    except OSError as error:
        _put_back(hidden, source)
        same = _is_version(descriptor, source, sent)
        if isinstance(error, _Opened) and not same:
            return Outcome.LEFT
        raise _PutBack(fingerprint(os.fstat(descriptor)) if same else None) from error


@contextlib.contextmanager
def _opened(path: bytes) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor  # closing it gives the lease up
    finally:
        os.close(descriptor)


def _being_written(descriptor: int) -> bool:
    """Whether someone has it open for writing; takes the lease that tells of later ones, where the kernel gives one."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return True
        status = os.fstat(descriptor)  # no lease here (network file system, not the owner): look for writers
        return open_for_writing((status.st_dev, status.st_ino))
    return False


def _is_version(descriptor: int, name: bytes, sent: Fingerprint) -> bool:
    status = os.fstat(descriptor)
    named = os.lstat(name)
    same_file = (named.st_dev, named.st_ino) == (status.st_dev, status.st_ino)
    same_bytes = (status.st_size, status.st_mtime_ns) == (sent.size, sent.mtime_ns)
    return same_file and same_bytes


def _is_unwritten(descriptor: int, name: bytes, sent: Fingerprint) -> bool:
    return not _being_written(descriptor) and _is_version(descriptor, name, sent)


def _sha256(descriptor: int) -> str:
    """Of the bytes that are there now; nobody can write meanwhile where the lease was given."""
    running, offset = hashlib.sha256(), 0
    while block := os.pread(descriptor, _READ_BYTES, offset):
        running.update(block)
        offset += len(block)
    return running.hexdigest()


def _put_back(hidden: bytes, source: bytes) -> bytes:
    """Give the source its name again; where a newer file has it by now, a visible name beside it: nothing is lost."""
    try:
        rename_without_replacing(hidden, source)
    except FileExistsError:
        folder, name = os.path.split(source)
        tail = b".chunkyd-kept-" + _job_of(hidden)
        source = os.path.join(folder, with_ending(name, tail))
        take_free_name(hidden, source)
    reached("daemon.after.put-back")
    fsync_directory(os.path.dirname(source))
    return source


def _job_of(hidden: bytes) -> bytes:
    """Number and table, as the hidden name has them."""
    number, table = os.path.basename(hidden).removeprefix(HIDDEN_PREFIX).split(b"-", 2)[:2]
    return number + b"-" + table[:_TABLE_DIGITS]


def _move(descriptor: int, hidden: bytes, target: bytes, sent: Fingerprint) -> Outcome:
    folder = os.path.dirname(target)
    make_durable_folder(os.fsdecode(folder), 0o755)
    reached("daemon.move.deciding")
    try:
        take_free_name(hidden, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = os.path.join(folder, MOVING_PREFIX + _job_of(hidden))
        if not copy_durably(descriptor, target, temporary, lambda: _is_unwritten(descriptor, hidden, sent)):
            raise _Opened from error
        os.unlink(hidden)
        reached("daemon.copy.removed")
    reached("daemon.move.moved")
    # The new name first, then the old one's absence: a power cut in between leaves two names, never none.
    fsync_directory(folder)
    reached("daemon.move.named")
    fsync_directory(os.path.dirname(hidden))
    reached("daemon.move.synced")
    return Outcome.MOVED
