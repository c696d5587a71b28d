"""Static charts by matplotlib: equal data give an equal SVG. The interactive ones are in `plots`."""

import io
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.report.palette import COLOURS, DENSE, GRID, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCH = 96
"""Pixels; all lengths below are pixels."""
LEFT, TOP, WIDTH, HEIGHT, FOOT, LEGEND = 72, 40, 580, 200, 54, 250
TITLE_GAP = 9
LOG_RATIO = 30.0
"""Beyond this ratio of the largest to the smallest value, a linear axis would hide the small ones."""
STYLE = {
    "svg.hashsalt": "espalier",
    # Text stays text: it is found, read out and restyled by the page around it.
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    # A name may hold a dollar sign.
    "text.parse_math": False,
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": GRID,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "axes.grid": True,
    # Room for the name of a level.
    "axes.ymargin": 0.1,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": TITLE_GAP,
    "legend.frameon": False,
}
SHEET = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_one_at_a_time = threading.RLock()


@dataclass(frozen=True)
class LinePanel:
    """One set of axes with lines over a common quantity."""

    title: str
    x: str
    """What goes across, and what goes up."""
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]] = field(repr=False)
    """Name of a line -> points, all finite."""
    level: tuple[str, float] | None = None
    """A name, possibly empty, and a value that is drawn as a dashed line across."""
    shares: str = ""
    """Letters of the axes whose values are shares and are written in percent."""
    log: bool | None = None
    """The axis upwards; None: where a linear one would hide the small values."""


@contextmanager
def style() -> Iterator[None]:
    """Apply the style of all charts inside the block; matplotlib's settings are restored afterwards."""
    import matplotlib

    # The settings belong to the process.
    with _one_at_a_time, matplotlib.rc_context(STYLE):
        yield


def blank(width: int, height: int) -> "Figure":
    """A figure of that many pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / INCH, height / INCH))


def place(figure: "Figure", left: int, top: int, width: int, height: int) -> "Axes":
    """New axes whose frame lies there, in pixels from the upper left corner."""
    across, down = figure.get_size_inches() * INCH
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def stack_axes(count: int, height: int = HEIGHT) -> tuple["Figure", list["Axes"]]:
    """`count` axes below each other, each with room for a title, the names of its axes and a legend to the right."""
    panel = TOP + height + FOOT
    figure = blank(LEFT + WIDTH + LEGEND, panel * count)
    return figure, [place(figure, LEFT, number * panel + TOP, WIDTH, height) for number in range(count)]


def line_chart(panels: Sequence[LinePanel], height: int = HEIGHT) -> "Figure":
    """The panels below each other, each with at least one point."""
    with style():
        figure, frames = stack_axes(len(panels), height)
        for axes, panel in zip(frames, panels, strict=True):
            _draw(axes, panel)
    return figure


def level(axes: "Axes", name: str, value: float) -> None:
    """A dashed line across with its name and value at the right end."""
    axes.axhline(value, color=DENSE, dashes=(5, 4), linewidth=1)
    axes.autoscale_view(scalex=False)
    if name:
        end = {"xycoords": axes.get_yaxis_transform(), "xytext": (-3, 3), "textcoords": "offset points"}
        axes.annotate(f"{name} {value:.3g}", (1, value), ha="right", color=DENSE, **end)


def legend(axes: "Axes") -> None:
    """The names of the lines, to the right of the frame."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02))


def percent(value: float, _: int | None = None) -> str:
    """0.5 as "50 %", with as many digits as tell close values apart."""
    return f"{100 * value:.4g} %"


def logarithmic(axes: "Axes") -> None:
    """A logarithmic axis upwards with the numbers written out."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1e3 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


def svg(figure: "Figure") -> str:
    """The figure as an element that can be written to a file or put into a page as it is."""
    titles = [axes.get_title("left") or f"{axes.get_ylabel()} against {axes.get_xlabel()}" for axes in figure.axes]
    written = io.StringIO()
    with style():
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Title": "; ".join(titles)})
    text = written.getvalue()
    # In a page its style sheet would hold for everything, and quotes are written as the page writes them.
    text = SHEET.sub("", text[text.index("<svg") :])
    return re.sub(">[^<]+<", lambda match: match[0].replace('"', "&quot;"), text)


def _draw(axes: "Axes", panel: LinePanel) -> None:
    from matplotlib.ticker import MaxNLocator

    for number, (name, points) in enumerate(panel.series.items()):
        across, up = zip(*points, strict=True)
        axes.plot(across, up, label=name, color=COLOURS[number % len(COLOURS)], marker="o", markersize=4, linewidth=1.4)
    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
    values = [value for points in panel.series.values() for _, value in points]
    if panel.level:
        level(axes, *panel.level)
        values.append(panel.level[1])
    axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 2, 5, 10], integer="x" not in panel.shares))
    hidden = min(values) > 0 and max(values) / min(values) > LOG_RATIO
    if hidden if panel.log is None else panel.log:
        logarithmic(axes)
    else:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    for letter, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if letter in panel.shares:
            axis.set_major_formatter(percent)
    legend(axes)
