"""Values over seeds as SVG text: a dot for each seed, a line through the extremes, a mark at the mean."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from statistics import fmean

from tasks.report.palette import COLOURS, DENSE, GRID, INK

LEFT, TOP, WIDTH, HEIGHT, LEGEND = 64, 40, 600, 240, 230
PANEL = TOP + HEIGHT + 56
ACROSS = 14.0
"""Pixels between the series at one tick."""
LINES = 5


@dataclass(frozen=True)
class SpreadPanel:
    """One set of axes."""

    title: str
    """What the values are."""
    ticks: dict[str, float]
    """Label -> place along the axis across; see `evenly` and `doublings`."""
    series: dict[str, dict[str, list[float]]] = field(repr=False)
    """Name -> label of a tick -> a finite value of each seed."""
    across: str = ""
    """What the ticks are."""
    level: tuple[str, float] | None = None
    """A name and a value that is drawn as a dashed line across."""
    joined: bool = False
    """Whether a line runs through the means of a series."""
    logarithmic: bool = False
    """The axis upwards; all values are then positive."""


def evenly(labels: Iterable[str]) -> dict[str, float]:
    """Ticks that are equally far apart."""
    return {label: float(place) for place, label in enumerate(labels)}


def doublings(numbers: Iterable[int]) -> dict[str, float]:
    """Ticks of a logarithmic axis: a doubling is one length."""
    return {str(number): math.log2(number) for number in numbers}


def spread_plot(panels: Sequence[SpreadPanel]) -> str:
    """The panels below each other, each with at least one value."""
    width, height = LEFT + WIDTH + LEGEND, PANEL * len(panels)
    drawn = "".join(_panel(panel, number * PANEL) for number, panel in enumerate(panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}" role="img">'
        f"<title>{escape('; '.join(panel.title for panel in panels))}</title>"
        f'<rect width="100%" height="100%" fill="#fff"/>{drawn}</svg>\n'
    )


class _Scale:
    """Ticks and values to pixels, with a little room around."""

    def __init__(self, panel: SpreadPanel, top: int) -> None:
        values = [value for places in panel.series.values() for own in places.values() for value in own]
        values += [panel.level[1]] if panel.level else []
        self.logarithmic, self.top, self.ticks = panel.logarithmic, top + TOP, panel.ticks
        low, high = self._place(min(values)), self._place(max(values))
        room = 0.06 * (high - low) or 0.5
        self.low, self.high = low - room, high + room
        self.first, self.last = min(panel.ticks.values()), max(panel.ticks.values())

    def _place(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value

    def x(self, label: str) -> float:
        if self.last == self.first:
            return LEFT + WIDTH / 2
        return LEFT + 40 + (WIDTH - 80) * (self.ticks[label] - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        return self.top + HEIGHT * (self.high - self._place(value)) / (self.high - self.low)

    def marks(self) -> list[float]:
        """Values of the lines across."""
        places = [self.low + (self.high - self.low) * step / (LINES - 1) for step in range(LINES)]
        return [math.exp(place) for place in places] if self.logarithmic else places


def _panel(panel: SpreadPanel, top: int) -> str:
    scale = _Scale(panel, top)
    bottom = top + TOP + HEIGHT
    parts = [f'<text x="8" y="{top + 22}" font-size="14" font-weight="600">{escape(panel.title)}</text>']
    for value in scale.marks():
        parts.append(f'<path d="M{LEFT} {scale.y(value):.1f}h{WIDTH}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 6, scale.y(value) + 4, f"{value:.3g}", "end"))
    for label in panel.ticks:
        parts.append(_text(scale.x(label), bottom + 18, label, "middle"))
    parts.append(_text(LEFT + WIDTH / 2, bottom + 40, panel.across, "middle"))
    if panel.level:
        name, value = panel.level
        parts.append(f'<path d="M{LEFT} {scale.y(value):.1f}h{WIDTH}" stroke="{DENSE}" stroke-dasharray="6 4"/>')
        parts.append(_text(LEFT + WIDTH - 4, scale.y(value) - 6, f"{name} {value:.3g}", "end", DENSE))
    apart = 0.0 if panel.joined else ACROSS
    for number, (name, places) in enumerate(panel.series.items()):
        aside = apart * (number - (len(panel.series) - 1) / 2)
        colour = COLOURS[number % len(COLOURS)]
        parts += _series(scale, places, colour, aside, panel.joined)
        line = top + TOP + 12 + 20 * number
        parts.append(f'<circle class="key" cx="{LEFT + WIDTH + 20}" cy="{line - 4}" r="5" fill="{colour}"/>')
        parts.append(_text(LEFT + WIDTH + 32, line, name))
    return "".join(parts)


def _series(
    scale: _Scale, places: Mapping[str, Sequence[float]], colour: str, aside: float, joined: bool
) -> Iterable[str]:
    ordered = sorted(places, key=lambda label: scale.ticks[label])
    if joined:
        line = "L".join(f"{scale.x(label):.1f} {scale.y(fmean(places[label])):.1f}" for label in ordered)
        yield f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
    for label in ordered:
        x, values = scale.x(label) + aside, places[label]
        yield f'<path d="M{x:.1f} {scale.y(max(values)):.1f}V{scale.y(min(values)):.1f}" stroke="{colour}"/>'
        for value in values:
            yield f'<circle class="seed" cx="{x:.1f}" cy="{scale.y(value):.1f}" r="2.5" fill="{colour}"/>'
        y = scale.y(fmean(values))
        yield (
            f'<path d="M{x - 6:.1f} {y:.1f}h12" stroke="{colour}" stroke-width="2.5">'
            f"<title>{escape(label)}: {fmean(values):.4g}</title></path>"
        )


def _text(x: float, y: float, text: str, anchor: str = "start", colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
