"""docs/performance.md, written from the figures that are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_HEAD = """# Performance

Written by `make bench` from the figures in `benchmarks/results/`; do not edit. Sender and receiver are on one machine,
over loopback, start-up of the sender included. Project and peers take turns; the figures are medians. Absolute times
drift from run to run on a shared machine, so a goal is a ratio against a peer in the same run.

"""


def write(results: Path) -> None:
    """The page, from every full result; quick ones are no figures."""
    documents = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    full = [document for document in documents if not document["quick"]]
    PAGE.write_text(_HEAD + "\n".join(_section(document) for document in full))


def _section(document: dict[str, Any]) -> str:
    machine, rows = document["machine"], document["rows"]
    peer = rows[1]["median"]["wall"]
    ratio = rows[0]["median"]["wall"] / peer
    verdict = "reached" if ratio <= document["goal"] else "missed"
    return f"""## {document["title"]}

| | seconds | ratio | CPU sending | CPU receiving | slowest, fastest | checks content | durable |
|---|---|---|---|---|---|---|---|
{"".join(_line(row, peer) for row in rows)}
Goal: at most {document["goal"]} × {rows[1]["name"]}; {verdict}, {ratio:.2f}.
`python -m benchmarks --only {document["name"]}` on {document["date"]}, {len(rows[0]["runs"])} runs each,
{machine["processors"]} processors, Linux {machine["kernel"]}, Python {machine["python"]}, rsync {machine["rsync"]},
load before {document["load"]:.1f}.
"""


def _line(row: dict[str, Any], peer: float) -> str:
    median, walls = row["median"], sorted(run["wall"] for run in row["runs"])
    figures = f"{median['wall']:.2f} | {median['wall'] / peer:.2f}"
    figures += f" | {median['client_cpu']:.2f} | {median['receiver_cpu']:.2f}"
    return f"| {row['name']} | {figures} | {walls[-1]:.2f}, {walls[0]:.2f} | {row['verifies']} | {row['durable']} |\n"
