"""docs/performance.md and its charts, written from the figures that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks.charts import draw
from benchmarks.rows import Document, Goal, Machine, Row

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
_HEAD = """# Performance

Written by `make bench` from the figures in `benchmarks/results/`; do not edit. Sender and receiver are on one machine,
over loopback where nothing else is said, start-up of the sender included. Project and peers take turns; the figures are
medians. Absolute times drift from run to run on a shared machine, so most goals are a ratio against a peer in the same
run. What a row verifies and keeps durable is what was done when its clock stopped. CPU is in seconds for each GiB.
"""
Column = tuple[str, Callable[[Row], str]]


def write(results: Path, order: Sequence[str]) -> None:
    """The page and the charts, from the full results of these benchmarks; quick ones are no figures."""
    paths = [results / f"{name}.json" for name in order]
    full = [msgspec.json.decode(path.read_bytes(), type=Document) for path in paths if path.exists()]
    for document in full:
        for chart in document.findings.charts:
            (DOCS / f"{chart.name}.svg").write_text(draw(chart))
    PAGE.write_text(page(full))


def page(documents: list[Document]) -> str:
    """The whole page; goals that are missed come first, in words."""
    parts = [_HEAD, _goals(documents), *map(_section, documents), *_machines(documents)]
    return "\n".join(part for part in parts if part)


def shown(row: Row) -> str:
    """One row in one line, for a terminal."""
    text = f"{row.name:44} {_number(row.figure):>8} {row.unit}"
    if row.peer is not None and row.ratio is not None:
        text += f"; {row.ratio:.2f} × {row.peer.name}"
    if row.goal is not None:
        text += f"; goal {goal_text(row)}: {row.verdict or 'not measured, its peer is missing'}"
    return f"{text} ({row.note})" if row.note else text


def goal_text(row: Row) -> str:
    """`≤ 0.75 × rsync`, `≤ 100 MiB`, or nothing."""
    if row.goal is None:
        return ""
    return _limit(row.goal) + (
        f" × {row.peer.name if row.peer else 'the peer'}" if row.goal.of_peer else f" {row.unit}"
    )


def _limit(goal: Goal) -> str:
    return f"{'≥' if goal.least else '≤'} {goal.limit:g}"


def _goals(documents: list[Document]) -> str:
    judged = [(document, row) for document in documents for row in document.findings.rows if row.goal is not None]
    if not judged:
        return ""
    missed = [(document, row) for document, row in judged if row.verdict == "missed"]
    lines = [f"- {_said(document, row)}" for document, row in missed] or ["None."]
    unjudged = [f"- {document.title}: {row.name}" for document, row in judged if row.verdict is None]
    reached = len(judged) - len(missed) - len(unjudged)
    text = f"## Goals\n\nOf {len(judged)} goals {reached} are reached. Missed:\n\n" + "\n".join(lines) + "\n"
    text += "\nWhat is left there, and why: [where the time goes](performance-profile.md).\n" if missed else ""
    return text + ("\nNot judged, for want of the peer:\n\n" + "\n".join(unjudged) + "\n" if unjudged else "")


def _said(document: Document, row: Row) -> str:
    found = f"{row.ratio:.2f} ×" if row.goal is not None and row.goal.of_peer and row.ratio is not None else ""
    return f"{document.title}, {row.name}: {found or f'{_number(row.figure)} {row.unit}'}; the goal is {goal_text(row)}"


def _section(document: Document) -> str:
    findings = document.findings
    parts = [f"## {document.title}\n", document.about + "\n", _table(findings.rows)]
    parts += [f"![{chart.title}]({chart.name}.svg)\n" for chart in findings.charts]
    commands = {row.command: None for row in findings.rows if row.command}
    parts += ["```\n" + "\n".join(commands) + "\n```\n"] if commands else []
    parts += ["".join(f"- Missing: {sentence}\n" for sentence in findings.missing)] if findings.missing else []
    parts.append(f"`{document.command}` on {document.date}, load before {document.load:.1f}.\n")
    return "\n".join(parts)


_COLUMNS: tuple[Column, ...] = (
    ("", lambda row: row.name),
    ("figure", lambda row: f"{_number(row.figure)} {row.unit}"),
    ("ratio", lambda row: f"{row.ratio:.2f}" if row.ratio is not None else ""),
    ("goal", lambda row: _limit(row.goal) + (" × peer" if row.goal.of_peer else "") if row.goal is not None else ""),
    ("", lambda row: f"**{row.verdict}**" if row.verdict == "missed" else row.verdict or ""),
    ("peer", lambda row: f"{row.peer.name}: {_number(row.peer.figure)}" if row.peer is not None else ""),
    ("least, most", lambda row: f"{_number(min(row.runs))}, {_number(max(row.runs))}" if len(row.runs) > 1 else ""),
    ("runs", lambda row: str(len(row.runs)) if len(row.runs) > 1 else ""),
    ("CPU sending", lambda row: _number(row.sending_cpu) if row.sending_cpu is not None else ""),
    ("CPU receiving", lambda row: _number(row.receiving_cpu) if row.receiving_cpu is not None else ""),
    ("verifies", lambda row: row.verifies),
    ("durable", lambda row: row.durable),
    ("", lambda row: row.note),
)


def _table(rows: tuple[Row, ...]) -> str:
    """A column that no row fills is left out."""
    filled = [(head, cell) for head, cell in _COLUMNS if any(cell(row) for row in rows)]
    lines = [[head for head, _ in filled], ["---"] * len(filled)]
    lines += [[cell(row) for _, cell in filled] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _number(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.4f}"


def _machines(documents: list[Document]) -> list[str]:
    """Where it was measured; most often one machine for all."""
    machines: dict[str, list[str]] = {}
    for document in documents:
        machines.setdefault(_machine(document.machine), []).append(document.title)
    alone = len(machines) == 1
    lines = [text if alone else f"{text} ({', '.join(titles)})" for text, titles in machines.items()]
    return ["## The machine\n\n" + "\n\n".join(lines) + "\n"] if lines else []


def _machine(machine: Machine) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        f"{machine.processors} processors ({machine.processor}), {machine.memory} of memory, {machine.file_system}, "
        f"Linux {machine.kernel},\nPython {machine.python}; {versions}."
    )
