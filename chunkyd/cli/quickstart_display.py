"""Uploads as they happen: bars on a terminal, a line for each arrival anywhere."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from chunkyd.cli.common import visible
from chunkyd.daemon.engine import Engine
from chunkyd.protocol.paths import readable

_LOOK_SECONDS = 0.2


class Display:
    """Follows a daemon of this process for as long as the block lasts."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._console = Console(stderr=True)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        seen = self._engine.events.after(None, 0).last
        with self._bars:
            while not self._over.is_set():
                batch = self._engine.events.after(seen, _LOOK_SECONDS)
                seen = batch.last
                for event in batch.events:
                    self._console.print(visible(f"{event.kind}: {event.text}"), markup=False, highlight=False)
                self._show_bars()

    def _show_bars(self) -> None:
        running = {upload.job.id: upload for upload in self._engine.live.all() if upload.progress is not None}
        for job_id in list(self._tasks):
            if job_id not in running:
                self._bars.remove_task(self._tasks.pop(job_id))
        for job_id, upload in running.items():
            progress = upload.progress
            assert progress is not None
            if job_id not in self._tasks:
                self._tasks[job_id] = self._bars.add_task("", total=progress.bytes_total)
            name = visible(readable(upload.job.path))
            self._bars.update(
                self._tasks[job_id], completed=progress.bytes_done, description=f"{progress.phase:>9} {name[-40:]}"
            )
