"""Charts as SVG, by hand: lines over two axes, readable on white and on dark ground alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.rows import Chart, Series

_WIDTH, _HEIGHT = 780, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 240, 40, 50  # margins; the legend stands at the right
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#808080")  # told apart by everybody


class _Axis:
    """Values to pixels along one side."""

    def __init__(self, values: Sequence[float], start: float, stop: float, *, logarithmic: bool) -> None:
        self._logarithmic = logarithmic
        self._start, self._stop = start, stop
        self.ticks = _powers(values) if logarithmic else _round_steps(values)
        self._low, self._high = self._scale(self.ticks[0]), self._scale(self.ticks[-1])

    def _scale(self, value: float) -> float:
        return math.log10(value) if self._logarithmic else value

    def at(self, value: float) -> float:
        """Where it stands, in pixels."""
        share = (self._scale(value) - self._low) / ((self._high - self._low) or 1)
        return round(self._start + share * (self._stop - self._start), 1)


def _powers(values: Sequence[float]) -> list[float]:
    """1, 2, 5, 10 … or whole powers of ten where that would be too many, around all values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    below = [tick for tick in ticks if tick <= min(values)]
    above = [tick for tick in ticks if tick >= max(values)]
    return (
        [tick for tick in ticks if below[-1] <= tick <= above[0]]
        if below[-1] < above[0]
        else [below[-1], above[0] * 10]
    )


def _round_steps(values: Sequence[float]) -> list[float]:
    """From zero, in about five round steps, to beyond the greatest."""
    greatest = max(values) or 1.0
    size = 10.0 ** math.floor(math.log10(greatest / 5))
    step = next(size * times for times in (1, 2, 5, 10) if size * times * 6 >= greatest)
    return [step * number for number in range(math.ceil(greatest / step) + 1)]


def draw(chart: Chart) -> str:
    """The chart as the text of an SVG file."""
    xs = [x for series in chart.series for x, _ in series.points]
    ys = [y for series in chart.series for _, y in series.points]
    across = _Axis(xs, _LEFT, _WIDTH - _RIGHT, logarithmic=chart.log_across)
    up = _Axis(ys, _HEIGHT - _BOTTOM, _TOP, logarithmic=chart.log_up)
    parts = [_frame(chart), *_across(across), *_up(up)]
    for number, series in enumerate(chart.series):
        parts += _line(series, across, up, _COLOURS[number % len(_COLOURS)], number)
    return "\n".join([*parts, "</svg>", ""])


def _frame(chart: Chart) -> str:
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif"'
            ' font-size="12" fill="#333">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
            f'<text x="{_LEFT}" y="22" font-size="15">{escape(chart.title)}</text>',
            f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(chart.across)}</text>',
            f'<text transform="translate(16 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(chart.up)}</text>',
        ]
    )


def _across(axis: _Axis) -> list[str]:
    base = _HEIGHT - _BOTTOM
    return [
        f'<path d="M{axis.at(tick)} {_TOP}V{base}" stroke="#ddd"/>'
        f'<text x="{axis.at(tick)}" y="{base + 18}" text-anchor="middle">{tick:g}</text>'
        for tick in axis.ticks
    ]


def _up(axis: _Axis) -> list[str]:
    return [
        f'<path d="M{_LEFT} {axis.at(tick)}H{_WIDTH - _RIGHT}" stroke="#ddd"/>'
        f'<text x="{_LEFT - 8}" y="{axis.at(tick) + 4}" text-anchor="end">{tick:g}</text>'
        for tick in axis.ticks
    ]


def _line(series: Series, across: _Axis, up: _Axis, colour: str, number: int) -> list[str]:
    """The line, its points, and its name at the right."""
    points = [(across.at(x), up.at(y)) for x, y in series.points]
    path = " ".join(f"{x},{y}" for x, y in points)
    level = _TOP + 12 + 20 * number
    start = _WIDTH - _RIGHT + 14
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
        *(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in points),
        f'<path d="M{start} {level}h18" stroke="{colour}" stroke-width="2"/>',
        f'<text x="{start + 24}" y="{level + 4}">{escape(series.name)}</text>',
    ]
