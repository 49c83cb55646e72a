"""What is shown: lists, history, counts; by the daemon, and by whoever reads the table while there is none."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable

from chunkyd.jobs.core import Core, one_of
from chunkyd.jobs.job import Job, Overlay
from chunkyd.jobs.states import ENDED, IDLE, UNFINISHED, State

LARGEST_PAGE = 10_000


class Listing(Core):
    """Reading; nothing here waits for a writer."""

    def jobs(
        self, states: Collection[State] = (), folder: str | None = None, limit: int = 1000, after: int = 0
    ) -> list[Job]:
        """Unfinished and failed jobs (or those shown in `states`) with numbers above `after`, oldest first."""
        conditions: list[str] = ["id > ?"]
        values: list[object] = [after]
        wanted = frozenset(State(state) for state in states)
        raw = _behind(wanted)
        if not raw & ENDED:
            conditions.append("finished IS NULL")
        if wanted:
            conditions.append(f"state IN {one_of(raw)}")
        if folder is not None:
            conditions.append("folder = ?")
            values.append(os.fsencode(folder))
        if wanted and wanted & UNFINISHED:
            return self._filtered(conditions, values, wanted, limit)
        return self._page(conditions, values, limit)

    def _page(self, conditions: Iterable[str], values: Iterable[object], limit: int) -> list[Job]:
        return self._jobs(f"WHERE {' AND '.join(conditions)} ORDER BY id LIMIT ?", (*values, _page(limit)))

    def _filtered(self, conditions: list[str], values: list[object], wanted: frozenset[State], limit: int) -> list[Job]:
        """What is shown is not what stands in the row: the same rule as `states.shown`, in SQL."""
        overlay = self.overlay()
        shown, given = _shown_in_sql(overlay)
        conditions = [*conditions, f"{shown} IN {one_of(wanted)}"]
        return self._page(conditions, (*values, *given), limit)

    def history(self, limit: int = 1000, after: int | None = None, folder: str | None = None) -> list[Job]:
        """Jobs that have ended, newest end first; `after` is the last one's `finish_number`."""
        conditions = ["finished IS NOT NULL"]
        values: list[object] = []
        if after is not None:
            conditions.append("finish_number < ?")
            values.append(after)
        if folder is not None:
            conditions.append("folder = ?")
            values.append(os.fsencode(folder))
        return self._jobs(
            f"WHERE {' AND '.join(conditions)} ORDER BY finish_number DESC LIMIT ?", (*values, _page(limit))
        )

    def unfinished(self, folder: str, after: int = 0, limit: int = 1000) -> list[Job]:
        """A folder's unfinished and failed jobs, by number."""
        return self.jobs((), folder, limit, after)

    def counts(self, folder: str | None = None) -> dict[State, int]:
        """Jobs by shown state; all states are there. Costs the same whatever the number of jobs."""
        overlay = self.overlay()
        found = dict.fromkeys(State, 0)
        rows = self._tables.rows(
            "SELECT folder, state, user_paused, number FROM counts WHERE ?1 IS NULL OR folder = ?1",
            (None if folder is None else os.fsencode(folder),),
        )
        for name, state, paused, number in rows:
            found[overlay.shown(os.fsdecode(name), State(state), None, paused=bool(paused))[0]] += number
        return found


class OfflineListing(Listing):
    """The table, read while no daemon runs; `tables` from `opening.open_readonly`."""


def _page(limit: int) -> int:
    return max(1, min(limit, LARGEST_PAGE))


def _behind(wanted: frozenset[State]) -> frozenset[State]:
    """The states in which rows that are shown so may stand."""
    return wanted | UNFINISHED if State.PAUSED in wanted else wanted


def _shown_in_sql(overlay: Overlay) -> tuple[str, list[object]]:
    """`states.shown` as an expression, and its values."""
    paused = [os.fsencode(folder) for folder in sorted(overlay.paused_folders)]
    missing = [os.fsencode(folder) for folder in sorted(overlay.missing)]
    by_user = f"(user_paused OR {int(overlay.all_paused)} OR folder IN ({_marks(paused)}))"
    held = f"(folder IN ({_marks(missing)}) OR {int(overlay.held is not None)})"
    shown = (
        f"CASE WHEN state IN {one_of(UNFINISHED)} AND {by_user} THEN 'paused'"
        f" WHEN state IN {one_of(IDLE)} AND {held} THEN 'paused' ELSE state END"
    )
    return shown, [*paused, *missing]


def _marks(values: list[bytes]) -> str:
    return ", ".join("?" * len(values))
