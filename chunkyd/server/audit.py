"""Reading everything that is published again, against the records: bytes rot, disks lie, people delete.

Read-only, and made to run beside a working server. What does not look good is looked at once more at the end: a file
that was being published at the first look is a good one by then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal, Protocol

import msgspec

from chunkyd.catalog.base import FileCatalog, FileRecord
from chunkyd.errors import EnvironmentFailure
from chunkyd.files import Fingerprint
from chunkyd.protocol.paths import Target
from chunkyd.server.publish import hash_whole
from chunkyd.storage.base import Reader

Verdict = Literal["good", "damaged", "missing", "unreadable", "unknown"]


class Published(Protocol):
    """The published files, as far as an audit reads them."""

    def walk(self, user: str | None) -> Iterator[tuple[Target, Fingerprint]]:
        """Every regular file."""
        ...

    def open(self, target: Target) -> Reader | None:
        """The regular file at the target."""
        ...


class Finding(msgspec.Struct, frozen=True):
    """What became of one file.

    `record`: what was recorded of it when it was judged.
    `damaged`: other bytes than were verified; `unreadable`: the disk, or a permission, does not give them; `unknown`:
    nothing was recorded of it.
    """

    target: Target
    verdict: Verdict
    record: FileRecord | None = None


def audit(files: Published, catalog: FileCatalog, user: str | None = None) -> Iterator[Finding]:
    """Every published and every recorded file, once; those that are not good come last."""
    suspicious = []
    for target in _targets(files, catalog, user):
        finding = _judge(files, catalog, target)
        if finding.verdict == "good":
            yield finding
        else:
            suspicious.append(target)
    for target in suspicious:
        yield _judge(files, catalog, target)


def _targets(files: Published, catalog: FileCatalog, user: str | None) -> Iterator[Target]:
    for record in catalog.files(user):
        yield Target(record.user, record.path)
    try:
        for target, _ in files.walk(user):
            if catalog.file(target) is None:
                yield target
    except OSError as error:
        what = f"the published files cannot be listed: {error.strerror}"
        raise EnvironmentFailure(what, mend="Check the disk, and who may read data_dir") from error


def _judge(files: Published, catalog: FileCatalog, target: Target) -> Finding:
    record = catalog.file(target)
    return Finding(target, "unknown" if record is None else _verdict(files, record, target), record)


def _verdict(files: Published, record: FileRecord, target: Target) -> Verdict:
    try:
        reader = files.open(target)
        if reader is None:
            return "missing"
        with contextlib.closing(reader):
            same_size = reader.fingerprint().size == record.size
            whole = same_size and hash_whole(reader.read, record.size) == record.file_hash
    except OSError:
        return "unreadable"
    return "good" if whole else "damaged"
