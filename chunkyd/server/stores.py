"""Where a server keeps its bytes and its records: the one place that chooses the implementations."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from chunkyd.catalog.base import Catalog
from chunkyd.catalog.sql import SqlCatalog
from chunkyd.errors import StateError
from chunkyd.files import make_durable_folder
from chunkyd.mounts import refuse_network
from chunkyd.server.audit import Published
from chunkyd.storage.base import Storage
from chunkyd.storage.disk import DiskStorage
from chunkyd.storage.tree import Tree


@contextlib.contextmanager
def open_stores(data_dir: str) -> Iterator[tuple[Storage, Catalog]]:
    """Both, for the one process that owns the folder; AlreadyRunning where another does, StateError on a network's."""
    refuse_network("data_dir", data_dir, "set data_dir to a local disk, or to a volume that only this machine mounts")
    with (
        contextlib.closing(DiskStorage(data_dir)) as storage,
        contextlib.closing(SqlCatalog(_catalog_path(data_dir), owner=True)) as catalog,
    ):
        yield storage, catalog


@contextlib.contextmanager
def open_catalog(data_dir: str, *, create: bool = False) -> Iterator[Catalog]:
    """The records alone, beside a running server too; `create` where users come before the server's first start."""
    if create:
        make_durable_folder(data_dir)
    elif not os.path.exists(_catalog_path(data_dir)):
        raise StateError(f"{_catalog_path(data_dir)} is not there", mend="Check data_dir, or start the server once")
    with contextlib.closing(SqlCatalog(_catalog_path(data_dir))) as catalog:
        yield catalog


@contextlib.contextmanager
def open_published(data_dir: str) -> Iterator[Published]:
    """The published files, to be read beside a running server."""
    path = os.path.join(data_dir, "files")
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(
            f"{path} cannot be read: {error.strerror}", mend="Check data_dir, and who may read it"
        ) from error
    try:
        yield Tree(folder, folder)
    finally:
        os.close(folder)


def _catalog_path(data_dir: str) -> str:
    return os.path.join(data_dir, "catalog.sqlite3")
