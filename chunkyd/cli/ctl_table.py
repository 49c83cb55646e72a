"""How chunkyctl shows things: tables on a terminal, lines with tabs elsewhere; names can never harm a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from chunkyd.cli.common import visible
from chunkyd.control.base import JobView


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; without a terminal the columns' names and the rows, separated by tabs."""
    shown = [[visible(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(columns, shown)
        return
    for row in (columns, *shown):
        sys.stdout.write("\t".join(row) + "\n")


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a name with [brackets] is no markup
    Console().print(table)


def size(count: int) -> str:
    """Bytes for people."""
    from humanize import naturalsize  # not for --json, nor for nothing

    return naturalsize(count, binary=True, format="%.1f")


def progress(job: JobView) -> str:
    """How much of a job is done: `512.0 MiB of 2.0 GiB (25 %)`; never 100 % before it is."""
    if job.bytes_done >= job.bytes_total:
        return size(job.bytes_total)
    return f"{size(job.bytes_done)} of {size(job.bytes_total)} ({100 * job.bytes_done // job.bytes_total} %)"


def state(job: JobView) -> str:
    """State and reason."""
    return f"{job.state} ({job.reason})" if job.reason else job.state


def note(job: JobView) -> str:
    """What a person would ask next: when it goes on, or what went wrong."""
    again = f"again at {job.next_attempt}" if job.next_attempt else ""
    return "; ".join(part for part in (job.error or "", again) if part)
