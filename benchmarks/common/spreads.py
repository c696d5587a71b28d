"""Values over seeds as a chart: a dot for each seed, a line through the extremes, a mark at the mean."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING

from tasks.report.charts import WIDTH, legend, level, logarithmic, stack_axes, style
from tasks.report.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEIGHT = 240
ACROSS = 14.0
"""Pixels between the series at one tick."""
EDGE = 40
"""Pixels between a frame and the first or the last tick."""


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


def spread_plot(panels: Sequence[SpreadPanel]) -> "Figure":
    """The panels below each other, each with at least one value."""
    with style():
        figure, frames = stack_axes(len(panels), HEIGHT)
        for axes, panel in zip(frames, panels, strict=True):
            _draw(axes, panel)
    return figure


def _draw(axes: "Axes", panel: SpreadPanel) -> None:
    places = panel.ticks.values()
    # Of a tick alone any length is right.
    pixel = (max(places) - min(places) or 1.0) / (WIDTH - 2 * EDGE)
    axes.set_xlim(min(places) - EDGE * pixel, max(places) + EDGE * pixel)
    axes.set_xticks(list(places), list(panel.ticks))
    axes.grid(visible=False, axis="x")
    apart = 0.0 if panel.joined else ACROSS * pixel
    for number, (name, values) in enumerate(panel.series.items()):
        aside = apart * (number - (len(panel.series) - 1) / 2)
        at = {panel.ticks[label] + aside: ys for label, ys in values.items()}
        _series(axes, name, dict(sorted(at.items())), COLOURS[number % len(COLOURS)], panel.joined)
    axes.set(title=panel.title, xlabel=panel.across)
    if panel.level:
        level(axes, *panel.level)
    if panel.logarithmic:
        logarithmic(axes)
    legend(axes)


def _series(axes: "Axes", name: str, at: Mapping[float, Sequence[float]], colour: str, joined: bool) -> None:
    dots = [(place, value) for place, values in at.items() for value in values]
    axes.plot(*zip(*dots, strict=True), label=name, color=colour, linestyle="none", marker="o", markersize=4)
    axes.vlines(list(at), [min(values) for values in at.values()], [*map(max, at.values())], colour, linewidth=1)
    means = {"marker": "_", "markersize": 9, "markeredgewidth": 2, "linewidth": 1.3}
    axes.plot(list(at), [*map(fmean, at.values())], color=colour, linestyle="-" if joined else "none", **means)
