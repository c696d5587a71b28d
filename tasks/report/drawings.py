"""Charts of artifacts and variants, drawn from their data when they are shown: no artifact holds a drawing."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning_core.checkpoint.layer_facts import BLOCK, LayerFacts
from tasks.records.model_facts import experts_together
from tasks.report.charts import LinePanel, blank, line_chart, place, style, svg
from tasks.report.search_page import search_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL, ROW, LABEL, TOP, FOOT = 44, 24, 160, 52, 18
NARROWEST = 360
LIGHT, DARK = "#eef3f7", "#145887"
Value = Callable[[LayerFacts], float | None]
SPARSITY: tuple[str, Value, str] = ("Sparsity (removed fraction)", lambda layer: layer.sparsity, "{:.2f}")
LOSS: tuple[str, Value, str] = ("Reconstruction loss, 0.5 tr(D H Dᵀ)", lambda layer: layer.loss, "{:.2g}")
ACROSS = "block"
CELLS = "cell"
"""What report.css knows the text of a cell by, which keeps its colour on dark paper."""


def drawings(files: Iterable[Path]) -> dict[str, str]:
    """File name -> text of the drawing of each file of an artifact that has one; see docs/formats.md."""
    drawn = {
        "shares.json": ("allocation.svg", draw_allocation),
        "profile.json": ("profile.svg", draw_profile),
        "search.json": ("search.html", draw_search),
    }
    present = [(drawn[file.name], file.parent) for file in files if file.name in drawn]
    return {name: draw(folder) for (name, draw), folder in present}


def draw_allocation(folder: Path) -> str:
    """Draw the artifact of an allocation as SVG."""
    return svg(allocation_chart(_facts(folder), _rows(folder)))


def draw_profile(folder: Path) -> str:
    """Draw the artifact of a sensitivity as SVG."""
    return svg(profile_chart(_facts(folder)["name"], json.loads((folder / "profile.json").read_text())))


def draw_search(folder: Path) -> str:
    """Draw the artifact of a search as a page."""
    search = json.loads((folder / "search.json").read_text())
    return search_page(search, _rows(folder), _facts(folder)["target"])


def draw_layers(layers: tuple[LayerFacts, ...]) -> str | None:
    """Draw the layers of a variant as SVG; None when there are none."""
    return svg(layer_chart(layers)) if layers else None


def allocation_chart(facts: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Over depth: the sparsity of each matrix and, where one was measured, its sensitivity.

    Args:
        facts: {name, target} of the artifact.
        rows: of shares.json.
    """
    title = f"Sparsity by {facts['name']}, target {facts['target']:.4g}"
    lines = by_kind((row["name"], row["block"], row["sparsity"]) for row in rows)
    panels = [LinePanel(title, ACROSS, "sparsity", lines, ("", facts["target"]), shares="y")]
    sensitivities = [(row["name"], row["block"], row["sensitivity"]) for row in rows if "sensitivity" in row]
    if sensitivities:
        panels.append(LinePanel("Sensitivity, larger = pruned less", ACROSS, "sensitivity", by_kind(sensitivities)))
    return line_chart(panels)


def profile_chart(name: str, profile: Mapping[str, Any]) -> "Figure":
    """Over depth: each kind of matrix, and the blocks.

    Args:
        name: of the sensitivity.
        profile: {matrices, blocks} of profile.json.
    """
    values = ((matrix, int(BLOCK.search(matrix)[1]), value) for matrix, value in profile["matrices"].items())
    title = f"Sensitivity by {name}, larger = pruned less"
    blocks = {"block": list(enumerate(profile["blocks"]))}
    return line_chart(
        [
            LinePanel(title, ACROSS, "sensitivity", by_kind(values)),
            LinePanel("The same per block", ACROSS, "sensitivity", blocks),
        ]
    )


def by_kind(values: Iterable[tuple[str, int, float]]) -> dict[str, list[tuple[float, float]]]:
    """Kind of matrix -> (block, value) by depth, from (matrix, block, value); the experts of a block by their mean."""
    kinds: dict[str, dict[int, list[float]]] = {}
    for name, block, value in values:
        kinds.setdefault(name.rpartition(".")[2], {}).setdefault(block, []).append(value)
    return {
        kind: [(block, sum(group) / len(group)) for block, group in sorted(blocks.items())]
        for kind, blocks in kinds.items()
    }


def layer_chart(layers: tuple[LayerFacts, ...]) -> "Figure":
    """Sparsity and loss as heat maps: one cell per matrix, or per matrix of all experts; blocks left to right."""
    layers = experts_together(layers)
    modules = list(dict.fromkeys(layer.place[1] for layer in layers))
    depth = max(layer.place[0] or 0 for layer in layers) + 1
    across, down = CELL * depth, ROW * len(modules)
    panel = TOP + down + FOOT
    with style():
        figure = blank(max(LABEL + across + 16, NARROWEST), 2 * panel)
        for number, (title, value, form) in enumerate((SPARSITY, LOSS)):
            axes = place(figure, LABEL, number * panel + TOP, across, down)
            _heat(axes, {layer.place: value(layer) for layer in layers}, modules, form)
            axes.set_title(title, x=8 / across - LABEL / across, pad=22)
    return figure


def _heat(axes: "Axes", values: dict[tuple[int | None, str], float | None], modules: list[str], form: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    figures = {
        (block or 0, modules.index(module)): value for (block, module), value in values.items() if value is not None
    }
    blocks = sorted({block or 0 for block, _ in values})
    highest = max(figures.values(), default=0.0) or 1.0
    cells = [
        [figures.get((block, row), float("nan")) for block in range(blocks[-1] + 1)] for row in range(len(modules))
    ]
    colours = LinearSegmentedColormap.from_list("layers", [LIGHT, DARK])
    axes.pcolormesh(cells, cmap=colours, vmin=0, vmax=highest, edgecolors="#ffffff", linewidth=1.5)
    for (block, row), value in figures.items():
        colour = "#ffffff" if value / highest > 0.5 else "#112233"
        axes.text(block + 0.5, row + 0.5, form.format(value), ha="center", va="center", color=colour, gid=CELLS)
    axes.set_xticks([block + 0.5 for block in blocks], [str(block) for block in blocks])
    axes.set_yticks([row + 0.5 for row in range(len(modules))], modules)
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_frame_on(False)


def _rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "shares.json").read_text())["matrices"]


def _facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())["facts"]
