"""Whether somebody has a file open for writing: the kernel refuses a read lease then (fcntl(2), F_SETLEASE)."""

from __future__ import annotations

import errno
import fcntl
import os
import signal

from chunkyd.files import open_long


def open_for_writing(root: bytes, path: bytes) -> bool:
    """Whether a process has this file below a root open for writing now. False where the kernel gives no leases.

    It gives them for local files, to the file's owner and to CAP_LEASE. The lease is given back at once: a writer that
    comes in between waits for no more than that. Its breaking would end a process that has not said otherwise, so one
    that lets SIGIO have its default takes none.
    """
    if signal.getsignal(signal.SIGIO) == signal.SIG_DFL:
        return False
    try:
        descriptor = open_long(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False  # whoever reads it next says why it cannot be opened
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(descriptor)
    return False
