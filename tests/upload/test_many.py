"""Several files at once: how the sending of them ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from chunkyd.errors import Interrupted
from chunkyd.upload.many import Delivery, Outcome
from chunkyd.upload.tree import Found, gather


class Slow:
    """An uploader that says when it has begun, and ends only some time after it was told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self._stopped = threading.Event()
        self._pause = threading.Event()

    def stop(self) -> None:
        """End it."""
        self._stopped.set()

    def upload(self) -> Any:
        """Wait for `stop`, then a little."""
        self.begun.set()
        assert self._stopped.wait(30)
        self._pause.wait(0.3)
        raise Interrupted("stopped on request")


def test_an_interrupted_wait_still_waits(tmp_path: Path) -> None:
    """Ctrl-C while all is sent: after `stop`, `wait` returns when the last file has ended, not before."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    (found,) = gather((os.fsencode(file),), recursive=False, name=None, prefix=b"")
    assert isinstance(found, Found)
    slow, outcomes = Slow(), list[Outcome]()
    delivery = Delivery([found], lambda file, told: slow, lambda file, picture: None, outcomes.append)  # type: ignore[arg-type, return-value]

    def interrupt() -> None:
        assert slow.begun.wait(30)
        # A signal in the moment before the main thread's wait is heard only when that ends: it must be in it.
        for _ in range(3000):
            if delivery._over._cond._waiters:  # type: ignore[attr-defined]
                break
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        delivery.run()
    delivery.stop()
    assert outcomes == []
    delivery.wait(30)
    assert [type(outcome.error) for outcome in outcomes] == [Interrupted]
