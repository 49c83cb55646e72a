"""A process that dies between any two steps of a publication, and the start after it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

from chunkyd.protocol.paths import Target
from chunkyd.storage.disk import DiskStorage
from tests.storage.helpers import content_of, everything, publish, upload

DIED = 7
STEPS = frozenset({"os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "open"})


def publish_and_die(data_dir: Path, session_id: str, target: Target, keep_old: bool, step: int) -> bool:
    """Publish in a process that ends just before its `step`-th change of a folder; False where it came through."""
    child = os.fork()
    if child == 0:
        try:
            storage = DiskStorage(str(data_dir))
            passed = 0

            def watch(event: str, _: object) -> None:
                nonlocal passed
                if event in STEPS:
                    if passed == step:
                        os._exit(DIED)
                    passed += 1

            sys.addaudithook(watch)
            storage.publish(session_id, target, keep_old=keep_old)
            os._exit(0)
        except BaseException as failure:
            os.write(2, repr(failure).encode())
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, DIED)
    return code == DIED


CASES = {
    "new file in new folders": (b"a/b/c", {}),
    "over an old file": (b"x", {b"x": b"old"}),
    "over an old file with old versions": (b"x", {b"x": b"old", b"x.~1~": b"older", b"x.~2~": b"oldest"}),
    "a file in the way of a folder": (b"x/y/z", {b"x": b"old"}),
}


@pytest.mark.parametrize("keep_old", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_crash_at_every_step(data_dir: Path, case: str, keep_old: bool) -> None:
    """The target holds the old or the new whole file at every moment; the next start finishes, and keeps all once."""
    path, before = CASES[case]
    target = Target("ann", path)
    step, died = 0, True
    while died:
        folder = data_dir.with_name(f"data{step}")
        with contextlib.closing(DiskStorage(str(folder))) as storage:
            for old_path, content in before.items():
                publish(storage, old_path, content)
            session_id = upload(storage, b"new")
            inode = storage.inode(session_id)
        died = publish_and_die(folder, session_id, target, keep_old, step)
        with contextlib.closing(DiskStorage(str(folder))) as storage:
            assert content_of(storage, path) in (before.get(path), b"new")
            if storage.inode(session_id) is not None:
                storage.publish(session_id, target, keep_old=keep_old)
            assert inode is not None
            found = storage.finish(target, inode)
            assert found is not None
            assert found == storage.published(target)
            assert everything(storage) == _expected(path, before, keep_old), f"after step {step}"
            assert os.listdir(folder / "partial") == []
        step += 1
    assert step >= 3


def _expected(path: bytes, before: dict[bytes, bytes], keep_old: bool) -> dict[bytes, bytes]:
    expected = dict(before)
    old = expected.pop(path.split(b"/")[0], None)
    if keep_old and old is not None:
        expected[b"x.~%d~" % len(before)] = old
    return {**expected, path: b"new"}


def test_a_name_that_came_back(data_dir: Path) -> None:
    """A partial that a power cut brought back beside its published self is published again without a second copy."""
    with contextlib.closing(DiskStorage(str(data_dir))) as storage:
        session_id = upload(storage, b"new")
        target = Target("ann", b"x")
        storage.publish(session_id, target, keep_old=True)
        os.link(data_dir / "files" / "ann" / "x", data_dir / "partial" / session_id)
        storage.publish(session_id, target, keep_old=True)
        assert everything(storage) == {b"x": b"new"}
        assert list(storage.partials()) == []
