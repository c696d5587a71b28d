"""Curves over the depth of a model as a self-contained SVG: one curve per kind of matrix, blocks left to right."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape

from tasks.report.palette import COLOURS, DENSE, GRID, INK

LEFT, TOP, WIDTH, HEIGHT, LEGEND = 64, 40, 560, 200, 150
PANEL = TOP + HEIGHT + 44
LOG_RATIO = 30.0
"""Beyond this ratio of the largest to the smallest value, a linear axis would hide the small ones."""


@dataclass(frozen=True)
class Panel:
    """One set of axes."""

    title: str
    series: dict[str, dict[int, float]] = field(repr=False)
    """Name of a curve -> block -> value, all finite."""
    form: str = "{:.3g}"
    """How a value of the axis is written."""
    target: float | None = None
    """Drawn as a dashed line across."""


def by_kind(values: Iterable[tuple[str, int, float]]) -> dict[str, dict[int, float]]:
    """Kind of matrix -> block -> value, from (matrix, block, value); the experts of a block by their mean."""
    found: dict[str, dict[int, list[float]]] = {}
    for name, block, value in values:
        found.setdefault(name.rpartition(".")[2], {}).setdefault(block, []).append(value)
    return {kind: {block: sum(v) / len(v) for block, v in blocks.items()} for kind, blocks in found.items()}


def depth_chart(panels: list[Panel]) -> str:
    """The panels below each other."""
    width, height = LEFT + WIDTH + LEGEND, PANEL * len(panels)
    drawn = "".join(_panel(panel, number * PANEL) for number, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="{INK}">'
        f'<rect width="100%" height="100%" fill="#fff"/>{drawn}</svg>'
    )


def _panel(panel: Panel, top: int) -> str:
    values = [value for curve in panel.series.values() for value in curve.values()]
    values += [panel.target] if panel.target is not None else []
    log = min(values) > 0 and max(values) / min(values) > LOG_RATIO
    place = math.log10 if log else float
    low, high = place(min(values)), place(max(values))
    # Equal values lie in the middle.
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    depth = max(block for curve in panel.series.values() for block in curve) + 1

    def at(block: int, value: float) -> tuple[float, float]:
        x = LEFT + WIDTH * (block + 0.5) / depth
        return round(x, 1), round(top + TOP + HEIGHT * (1 - (place(value) - low) / (high - low)), 1)

    parts = [f'<text x="8" y="{top + 22}" font-size="14" font-weight="600">{escape(panel.title)}</text>']
    for step in range(5):
        height = low + (high - low) * step / 4
        y = round(top + TOP + HEIGHT * (1 - step / 4), 1)
        text = escape(panel.form.format(10**height if log else height))
        parts.append(f'<path d="M{LEFT} {y}H{LEFT + WIDTH}" stroke="{GRID}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
    every = -(-depth // 16)
    for block in range(0, depth, every):
        x = at(block, 10**low if log else low)[0]
        parts.append(f'<text x="{x}" y="{top + TOP + HEIGHT + 16}" text-anchor="middle">{block}</text>')
    if panel.target is not None:
        y = at(0, panel.target)[1]
        parts.append(f'<path d="M{LEFT} {y}H{LEFT + WIDTH}" stroke="{DENSE}" stroke-dasharray="5 4"/>')
    for number, (name, curve) in enumerate(panel.series.items()):
        parts.append(_curve(name, [at(*point) for point in sorted(curve.items())], number, top))
    return "".join(parts)


def _curve(name: str, points: list[tuple[float, float]], number: int, top: int) -> str:
    colour = COLOURS[number % len(COLOURS)]
    x, y = LEFT + WIDTH + 14, top + TOP + 8 + 18 * number
    line = " ".join(f"{across},{down}" for across, down in points)
    dots = "".join(f'<circle cx="{across}" cy="{down}" r="2.5" fill="{colour}"/>' for across, down in points)
    return (
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>{dots}'
        f'<circle cx="{x}" cy="{y}" r="4" fill="{colour}"/><text x="{x + 10}" y="{y + 4}">{escape(name)}</text>'
    )
