"""The page of figures says what was found: goals missed first, peers that were not there, charts that can be drawn."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec
import pytest

from benchmarks.charts import draw
from benchmarks.report import page
from benchmarks.rows import Chart, Document, Findings, Machine, Peer, Row, Series, at_least_of_peer, at_most, row

MACHINE = Machine(
    processor="a processor",
    processors=2,
    memory="4 GiB",
    kernel="6.1",
    python="3.11",
    file_system="ext4",
    versions={"rsync": "3.2"},
)


def document(*rows: Row, **found: object) -> Document:
    """What a benchmark with these rows leaves."""
    return Document(
        name="some",
        title="Some",
        about="Some work.",
        quick=False,
        command="python -m benchmarks --only some",
        date="2026-01-01 00:00",
        seconds=1.0,
        load=0.1,
        machine=MACHINE,
        findings=msgspec.convert({"rows": msgspec.to_builtins(rows), **found}, Findings),
    )


def test_a_missed_goal_is_said_first_and_in_words() -> None:
    """Figure and goal stand above all tables; what reached its goal does not."""
    missed = row("memory", "MiB", [90, 120, 130], goal=at_most(100))
    reached = row("speed", "s", [0.5], goal=at_most(1))
    head = page([document(missed, reached)]).partition("## Some")[0]
    assert "Of 2 goals 1 are reached" in head
    assert "Some, memory: 120 MiB; the goal is ≤ 100 MiB" in head
    assert "speed" not in head.partition("Missed:")[2]


def test_a_ratio_without_its_peer_is_not_judged() -> None:
    """Neither reached nor missed; and the page says which peer was not there."""
    alone = row("upload", "Mbit/s", [9], goal=at_least_of_peer(3))
    text = page([document(alone, missing=("tus: not installed",))])
    assert "Of 1 goals 0 are reached" in text
    assert "Not judged, for want of the peer:\n\n- Some: upload" in text
    assert "- Missing: tus: not installed" in text


@pytest.mark.parametrize(("figure", "verdict"), [(6.1, "reached"), (5.9, "missed")])
def test_at_least_so_many_times_the_peer(figure: float, verdict: str) -> None:
    """The ratio is judged, not the figure."""
    beside = row("upload", "Mbit/s", [figure], goal=at_least_of_peer(3), peer=Peer(name="tus", figure=2))
    assert beside.verdict == verdict


def test_what_is_kept_is_read_again() -> None:
    """A document survives JSON as it is."""
    kept = document(row("upload", "s", [1, 2, 3], goal=at_most(2), peer=Peer(name="rsync", figure=4)))
    assert msgspec.json.decode(msgspec.json.encode(kept), type=Document) == kept


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("values", [(1.0, 512.0), (0.03, 4.4), (1.0, 1.0), (0.3, 90000.0)])
def test_a_chart_is_xml_with_every_point_inside(values: tuple[float, float], logarithmic: bool) -> None:
    """Whatever the values, also where all are equal: no point lies outside the axes."""
    series = (Series("a & b", tuple((value, value) for value in values)),)
    chart = Chart(name="c", title="<t>", across="x", up="y", series=series, log_across=logarithmic, log_up=logarithmic)
    drawn = ElementTree.fromstring(draw(chart))
    points = [each for each in drawn.iter() if each.tag.endswith("circle")]
    assert len(points) == len(values)
    assert all(70 <= float(each.get("cx", "")) <= 540 and 40 <= float(each.get("cy", "")) <= 350 for each in points)
