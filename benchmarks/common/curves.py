"""A plot of curves over a linear axis of shares and a logarithmic one, as SVG text."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from tasks.report.plots import COLOURS, DENSE, GRID, INK

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 64, 220, 16, 52
STEPS = (1.0, 2.0, 5.0)
"""Ticks of the logarithmic axis, times powers of ten."""


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], level: float | None, x_title: str, y_title: str
) -> str | None:
    """The plot, or None when there is nothing to draw.

    Args:
        lines: name -> points (share in [0, 1], positive value), drawn in the order of the shares.
        level: a value that is drawn as a dashed line across: the dense model.
    """
    points = [point for line in lines.values() for point in line]
    if not points:
        return None
    values = [value for _, value in points] + ([level] if level else [])
    scale = _Scale(min(x for x, _ in points), max(x for x, _ in points), min(values), max(values))
    parts = [*_grid(scale, sorted({round(x, 2) for x, _ in points}))]
    parts.append(_text(LEFT + scale.width / 2, HEIGHT - 10, x_title, "middle", INK))
    parts.append(f'<g transform="translate(14 {TOP + scale.height / 2}) rotate(-90)">{_text(0, 0, y_title)}</g>')
    if level:
        y = scale.y(level)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{LEFT + scale.width}" stroke="{DENSE}" stroke-dasharray="6 4"/>')
        parts.append(_text(LEFT + scale.width - 4, y - 6, f"dense {level:.3g}", "end", DENSE))
    for index, (name, line) in enumerate(lines.items()):
        parts += _curve(scale, name, sorted(line), COLOURS[index % len(COLOURS)], index)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="none" role="img">'
        f"<title>{escape(f'{y_title} against {x_title}')}</title>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


class _Scale:
    """Values to pixels: shares linearly, values by their logarithm, with a little room around."""

    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def __init__(self, first: float, last: float, low: float, high: float) -> None:
        room = 0.03 if last > first else 0.1
        self.first, self.last = first - room, last + room
        self.low, self.high = math.log(low) - 0.08, math.log(high) + 0.08

    def x(self, share: float) -> float:
        return LEFT + self.width * (share - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        return TOP + self.height * (self.high - math.log(value)) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten within the range."""
        powers = range(math.floor(self.low / math.log(10)), math.ceil(self.high / math.log(10)) + 1)
        found = [step * 10.0**power for power in powers for step in STEPS]
        return [value for value in found if self.low <= math.log(value) <= self.high]


def _grid(scale: _Scale, shares: list[float]) -> list[str]:
    parts = []
    for value in scale.ticks():
        y = scale.y(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{LEFT + scale.width}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{value:g}", "end", INK))
    for share in _spaced(shares):
        x = scale.x(share)
        parts.append(f'<path d="M{x:.1f} {TOP}V{TOP + scale.height}" stroke="{GRID}"/>')
        parts.append(_text(x, TOP + scale.height + 20, f"{100 * share:.0f} %", "middle", INK))
    return parts


def _spaced(shares: list[float]) -> list[float]:
    """Without those that lie closer than two points to the one before: their labels would overlap."""
    kept: list[float] = []
    for share in shares:
        if not kept or share - kept[-1] >= 0.02:
            kept.append(share)
    return kept


def _curve(scale: _Scale, name: str, line: list[tuple[float, float]], colour: str, index: int) -> list[str]:
    places = [(scale.x(x), scale.y(y)) for x, y in line]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    marks = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">'
        f"<title>{escape(name)}: {share:.1%}, {value:.4g}</title></circle>"
        for (x, y), (share, value) in zip(places, line, strict=True)
    )
    top, left = TOP + 16 + 22 * index, LEFT + scale.width + 20
    key = f'<path d="M{left} {top - 4}h22" stroke="{colour}" stroke-width="2.5"/>{_text(left + 30, top, name)}'
    return [f'<path d="M{path}" stroke="{colour}" stroke-width="2"/>', marks, key]


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
