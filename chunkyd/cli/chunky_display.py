"""What `chunky upload` shows: bars on a terminal, lines otherwise, one document with --json."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from chunkyd.cli.common import print_json, say, visible
from chunkyd.errors import EXIT_INTERRUPTED, EXIT_UNREACHABLE, Interrupted
from chunkyd.protocol.paths import readable
from chunkyd.upload.many import Outcome
from chunkyd.upload.progress import Progress
from chunkyd.upload.tree import Found, Skipped

if TYPE_CHECKING:
    from rich.progress import TaskID

_LINE_SECONDS = 10.0  # between two lines about one file where there is no terminal
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class _Wanted(Protocol):
    @property
    def as_json(self) -> bool: ...


class Display:
    """Collects what became of the files; by itself it shows nothing."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.skips: list[Skipped] = []

    @property
    def failures(self) -> int:
        """How many files were not sent and should have been."""
        return sum(skip.failed for skip in self.skips) + sum(each.error is not None for each in self.outcomes)

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def skipped(self, skip: Skipped) -> None:
        """This is not sent."""
        self.skips.append(skip)

    def progress(self, file: Found, progress: Progress) -> None:
        """How far one file is."""

    def finished(self, outcome: Outcome) -> None:
        """One file has ended, well or not."""
        self.outcomes.append(outcome)

    def summary(self, code: int) -> None:
        """All have ended."""


class Json(Display):
    """One document at the end."""

    def summary(self, code: int) -> None:
        """Print it."""
        files = [_described(outcome) for outcome in self.outcomes]
        skipped = [_named(skip.source) | {"reason": skip.reason, "failed": skip.failed} for skip in self.skips]
        print_json({"files": files, "skipped": skipped, "exitCode": code})


class Lines(Display):
    """A line for each file, and one every few seconds while a file takes long."""

    def __init__(self) -> None:
        super().__init__()
        self._spoke: dict[bytes, float] = {}

    def skipped(self, skip: Skipped) -> None:
        """Say so."""
        super().skipped(skip)
        say(f"{readable(skip.source)}: {'' if skip.failed else 'skipped, '}{skip.reason}")

    def progress(self, file: Found, progress: Progress) -> None:
        """A line, now and then."""
        now = time.monotonic()
        if now - self._spoke.setdefault(file.source, now) >= _LINE_SECONDS:
            self._spoke[file.source] = now
            self.line(f"{readable(file.path)}: {_standing(progress)}")

    def finished(self, outcome: Outcome) -> None:
        """A line."""
        super().finished(outcome)
        self._spoke.pop(outcome.file.source, None)
        if outcome.result is None:
            if not isinstance(outcome.error, Interrupted):
                say(f"{readable(outcome.file.source)}: {outcome.error}")
            return
        self.line(f"{readable(outcome.file.path)}: {_sent(outcome)}")

    def line(self, text: str) -> None:
        """One line on stdout, without control characters."""
        print(visible(text), flush=True)

    def summary(self, code: int) -> None:
        """How many, and how to go on."""
        sent = sum(outcome.result is not None for outcome in self.outcomes)
        if len(self.outcomes) + len(self.skips) > 1:
            self.line(f"{sent} of {len(self.outcomes) + sum(each.failed for each in self.skips)} files sent")
        if code in (EXIT_INTERRUPTED, EXIT_UNREACHABLE):
            say("Nothing is lost: run the same command again to go on.")


class Bars(Lines):
    """Bars on a terminal."""

    def __init__(self, files: Sequence[Found]) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[standing]}", markup=False),
            console=Console(file=sys.stdout),
        )
        self._tasks: dict[bytes, TaskID] = {}
        self._several = len(files) > 1
        self._all = sum(file.size for file in files)
        self._count = len(files)
        self._done = 0
        self._total: TaskID | None = None

    def __enter__(self) -> Bars:
        self._bars.start()
        if self._several:
            self._total = self._bars.add_task("all files", total=self._all, standing="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def progress(self, file: Found, progress: Progress) -> None:
        """Move its bar."""
        task = self._tasks.get(file.source)
        if task is None:
            task = self._tasks[file.source] = self._bars.add_task(_short(file), total=file.size or 1, standing="")
        self._bars.update(
            task,
            completed=progress.bytes_done,
            total=progress.bytes_total or 1,
            description=_short(file),
            standing=visible(_standing(progress)),
        )

    def finished(self, outcome: Outcome) -> None:
        """Take its bar away, leave its line."""
        task = self._tasks.pop(outcome.file.source, None)
        if task is not None:
            self._bars.remove_task(task)
        super().finished(outcome)
        self._done += outcome.file.size
        if self._total is not None:
            standing = f"{len(self.outcomes)} of {self._count} files"
            self._bars.update(self._total, completed=self._done, standing=standing)

    def line(self, text: str) -> None:
        """One line above the bars; of several files only the summary."""
        if not self._several or not self._bars.live.is_started:
            self._bars.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)


def display_for(wanted: _Wanted, gathered: Sequence[Found | Skipped]) -> Display:
    """The display that fits the command line and the terminal."""
    if wanted.as_json:
        return Json()
    if sys.stdout.isatty():
        return Bars([each for each in gathered if isinstance(each, Found)])
    return Lines()


def _short(file: Found) -> str:
    name = readable(file.path)
    shown = name if len(name) <= 40 else "…" + name[-39:]
    return visible(shown)


def _standing(progress: Progress) -> str:
    parts = [progress.phase, f"{_size(progress.bytes_done)} of {_size(progress.bytes_total)}"]
    if progress.rate and progress.phase in ("hashing", "sending"):
        parts.append(f"{_size(round(progress.rate))}/s")
    if progress.seconds_left is not None and progress.phase == "sending":
        parts.append(f"{_clock(progress.seconds_left)} left")
    return ", ".join([*parts, progress.detail] if progress.detail else parts)


def _sent(outcome: Outcome) -> str:
    result = outcome.result
    assert result is not None
    if result.instant and result.size:
        return f"{_size(result.size)}, was there already"
    if result.resumed_from:
        return f"{_size(result.size)} sent and verified, resumed at {_size(result.resumed_from)}"
    return f"{_size(result.size)} sent and verified"


def _size(count: int) -> str:
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _named(path: bytes, key: str = "source") -> dict[str, object]:
    """A path for JSON; one that is not UTF-8 has its bytes beside it, in base64."""
    named: dict[str, object] = {key: readable(path)}
    try:
        path.decode("utf-8")
    except UnicodeDecodeError:
        named[key + "Bytes"] = base64.b64encode(path).decode("ascii")
    return named


def _described(outcome: Outcome) -> dict[str, object]:
    described = _named(outcome.file.source) | _named(outcome.file.path, "path") | {"size": outcome.file.size}
    result, error = outcome.result, outcome.error
    if result is not None:
        return described | {
            "state": "done",
            "fileHash": result.file_hash,
            "size": result.size,
            "bytesSent": result.bytes_sent,
            "resumedFrom": result.resumed_from,
            "instant": result.instant,
        }
    assert error is not None
    state = "interrupted" if isinstance(error, Interrupted) else "failed"
    return described | {"state": state, "error": error.what, "mend": error.mend, "resumable": error.retryable}
