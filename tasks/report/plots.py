"""The plots of the comparison report, as Plotly figures that need no template of Plotly's."""

from collections.abc import Callable, Iterable
from html import escape
from typing import Any

from pruning_core.checkpoint.layer_facts import LayerFacts
from tasks.records.variant import Variant
from tasks.report.palette import COLOURS, DENSE, GRID, INK
from tasks.store.canonical_json import canonical

METHODS = ("saliency", "pattern", "quantizer", "compensation", "allocation")
MARKERS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
# With more entries than these a legend above the plot would leave no plot.
SHORT_LEGEND = 6
HEIGHT = 360
ENTRY_HEIGHT = 11
"""Pixels that an entry of a long legend adds: two stand in a row."""
# Beyond this ratio of the highest to the lowest value a linear axis hides the low ones.
LOG_RATIO = 12.0


def colours(variants: Iterable[Variant]) -> dict[str, str]:
    """Name -> colour, the same in every plot; the dense baseline is grey."""
    compressed = [variant.name for variant in variants if not variant.is_baseline]
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(compressed)}


def dashes(variants: Iterable[Variant]) -> dict[str, str]:
    """Name -> dash of its lines: where there are more variants than colours, equal colours differ in it."""
    compressed = [variant.name for variant in variants if not variant.is_baseline]
    return {name: DASHES[index // len(COLOURS) % len(DASHES)] for index, name in enumerate(compressed)}


def curve(variant: Variant) -> str:
    """A recipe without its sparsity: variants that differ in that alone make one curve."""
    recipe = {key: value for key, value in variant.recipe.items() if key != "sparsity"}
    for part, amount in (("structured", "ratio"), ("recovery", "sparsity")):
        if isinstance(recipe.get(part), dict):
            recipe[part] = {key: value for key, value in recipe[part].items() if key != amount}
    return canonical(recipe)


def curves(variants: Iterable[Variant]) -> dict[str, list[Variant]]:
    """Label -> the variants of one curve, by sparsity; a second curve of the same methods names a variant too."""
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        groups.setdefault(curve(variant), []).append(variant)
    labels = [method(group[0]) for group in groups.values()]
    return {
        f"{label} ({group[0].name})" if labels.count(label) > 1 else label: sorted(
            group, key=lambda variant: variant.sparsity.prunable
        )
        for label, group in zip(labels, groups.values(), strict=True)
    }


def method(variant: Variant) -> str:
    """The methods of a variant for people, without its sparsity."""
    recipe = variant.recipe
    names = []
    structured = recipe.get("structured", {})
    parts = recipe | {"importance": structured.get("importance")}
    parts["reconstruction"] = structured.get("reconstruction") and "least squares"
    for key in (*METHODS, "importance", "reconstruction", "recovery"):
        value = parts.get(key)
        name = value.get("name") if isinstance(value, dict) else value
        if name in (None, "none", "unstructured", "uniform"):
            continue
        if name == "n_of_m" and {"n", "m"} <= value.keys():
            name = f"{value['n']}:{value['m']}"
        elif key == "quantizer":
            name = f"{value.get('bits', 4)} bits"
        names.append(name)
    return " + ".join(names) or variant.name


def quality(variants: list[Variant]) -> Any:
    """Perplexity against sparsity, one curve per recipe without its sparsity, the dense model as a line across."""
    figure = new_figure("sparsity of the prunable weights", "perplexity")
    points = [v for v in variants if not v.is_baseline and v.sparsity and v.metrics.perplexity]
    dense = next((v.metrics.perplexity for v in variants if v.is_baseline), None)
    for index, (name, group) in enumerate(curves(points).items()):
        figure.add_scatter(
            x=[v.sparsity.prunable for v in group],
            y=[v.metrics.perplexity for v in group],
            customdata=[escape(v.name) for v in group],
            name=escape(name),
            mode="lines+markers",
            marker={"size": 10, "symbol": MARKERS[index % len(MARKERS)]},
            line={"color": COLOURS[index % len(COLOURS)], "dash": DASHES[index // len(COLOURS) % len(DASHES)]},
            hovertemplate="<b>%{customdata}</b><br>sparsity %{x:.1%}<br>perplexity %{y:.4g}<extra></extra>",
        )
    if dense:
        figure.add_hline(y=dense, line={"color": DENSE, "dash": "dash", "width": 1.5})
        figure.add_annotation(
            text=f"dense {dense:.4g}", x=1, xref="paper", y=dense, yshift=9, showarrow=False, font={"color": DENSE}
        )
    # Variants of one sparsity would otherwise get an axis from -50 % to 150 %.
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    return _set_scale(figure, [v.metrics.perplexity for v in points] + ([dense] if dense else []))


def sparsity_by_depth(variants: list[Variant]) -> Any:
    """The removed fraction of each block, weighted by parameters."""
    figure = new_figure("block", "sparsity")
    for variant, blocks in _by_block(variants, lambda layer: layer.gone):
        removed = [sum(layer.gone for layer in layers) for layers in blocks.values()]
        size = [sum(layer.size for layer in layers) for layers in blocks.values()]
        values = [zeros / count for zeros, count in zip(removed, size, strict=True)]
        _line(figure, variants, variant, list(blocks), values, "sparsity %{y:.2%}")
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure


def loss_by_depth(variants: list[Variant]) -> Any:
    """The reconstruction losses of each block's layers, added up."""
    figure, seen = new_figure("block", "reconstruction loss"), []
    for variant, blocks in _by_block(variants, lambda layer: layer.loss):
        values = [sum(layer.loss for layer in layers) for layers in blocks.values()]
        seen += values
        _line(figure, variants, variant, list(blocks), values, "loss %{y:.3g}")
    return _set_scale(figure, seen)


def window_differences(variants: list[Variant]) -> Any:
    """How much each window of the evaluation text got worse: the difference to the dense model's loss."""
    figure = new_figure("loss above dense, nats per token", "")
    dense = next((v.window_losses() for v in variants if v.is_baseline), None)
    colour = colours(variants)
    for variant in reversed(variants):
        losses = None if variant.is_baseline or not dense else variant.window_losses()
        if losses and len(losses) == len(dense):
            difference = [loss - base for loss, base in zip(losses, dense, strict=True)]
            style = {"line": {"color": colour[variant.name], "width": 1.5}, "boxmean": True, "boxpoints": "outliers"}
            figure.add_box(x=difference, name=escape(variant.name), marker={"size": 3}, showlegend=False, **style)
    figure.add_vline(x=0, line={"color": DENSE, "dash": "dash", "width": 1.5})
    # A box needs room for its name.
    figure.update_layout(height=max(HEIGHT, 90 + 24 * len(figure.data)))
    return figure


def search_convergence(variants: list[Variant]) -> Any:
    """The best candidate of each search by the tokens evaluated; the first point is its best start."""
    figure = new_figure("search tokens evaluated", "KL to dense, nats per token")
    for variant in variants:
        if variant.search and variant.search.history:
            first = min((start.fitness for start in variant.search.initial), default=None)
            points = [(0, first)] * (first is not None) + [
                (entry.tokens, entry.best) for entry in variant.search.history
            ]
            figure.add_scatter(
                x=[tokens for tokens, _ in points],
                y=[best for _, best in points],
                name=escape(variant.name),
                mode="lines",
                line={"color": colours(variants)[variant.name], "shape": "hv"},
                hovertemplate=f"<b>{escape(variant.name)}</b><br>%{{x:,}} tokens<br>KL %{{y:.4f}}<extra></extra>",
            )
    return figure


def recovery(variants: list[Variant]) -> Any:
    """Validation loss of each training of a whole model by its steps; of block-wise ones before and after alone."""
    figure, seen = new_figure("optimizer steps", "validation loss, nats per token"), []
    for variant in variants:
        points = [(point.step, point.validation_loss) for point in variant.loss_curves.get("model", ())]
        result = variant.facts.recovery
        if not points and result:
            points = [(0, result.validation_loss["before"]), (result.steps, result.validation_loss["after"])]
        if points:
            seen += [loss for _, loss in points]
            figure.add_scatter(
                x=[step for step, _ in points],
                y=[loss for _, loss in points],
                name=escape(variant.name),
                mode="lines+markers",
                marker={"size": 6},
                line={"color": colours(variants)[variant.name]},
                hovertemplate=f"<b>{escape(variant.name)}</b>, step %{{x}}<br>loss %{{y:.4f}}<extra></extra>",
            )
    return _set_scale(figure, seen)


def _by_block(
    variants: list[Variant], value_of: Callable[[LayerFacts], float | None]
) -> Iterable[tuple[Variant, dict[int, list[LayerFacts]]]]:
    for variant in variants:
        blocks: dict[int, list[LayerFacts]] = {}
        for layer in variant.facts.layers:
            block = layer.place[0]
            if block is not None and value_of(layer) is not None:
                blocks.setdefault(block, []).append(layer)
        if blocks:
            yield variant, dict(sorted(blocks.items()))


def _line(figure: Any, variants: list[Variant], variant: Variant, x: list[int], y: list[float], hover: str) -> None:
    figure.add_scatter(
        x=x,
        y=y,
        name=escape(variant.name),
        mode="lines+markers",
        marker={"size": 7},
        line={"color": colours(variants).get(variant.name, DENSE), "dash": dashes(variants).get(variant.name, "solid")},
        hovertemplate=f"<b>{escape(variant.name)}</b>, block %{{x}}<br>{hover}<extra></extra>",
    )


def new_figure(x: str, y: str) -> Any:
    """Empty axes with these titles, in the style of all plots."""
    from plotly.graph_objects import Figure

    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "ticks": "outside", "tickcolor": GRID}
    return Figure(
        layout={
            "template": "none",
            "xaxis": axis | {"title": {"text": x, "font": {"size": 13}}},
            "yaxis": axis | {"title": {"text": y, "font": {"size": 13}}, "automargin": True},
            "margin": {"l": 64, "r": 16, "t": 12, "b": 52},
            "height": HEIGHT,
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "showlegend": True,
        }
    )


def legible(figure: Any) -> Any:
    """A legend of many entries goes below the plot, which keeps its height."""
    entries = sum(trace.showlegend is not False for trace in figure.data)
    if entries > SHORT_LEGEND:
        below = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "font": {"size": 11}}
        figure.update_layout(legend=below, height=figure.layout.height + 40 + ENTRY_HEIGHT * entries)
    return figure


def _set_scale(figure: Any, values: list[float]) -> Any:
    """A logarithmic axis where a linear one would hide the low values."""
    positive = [value for value in values if value > 0]
    if positive and len(positive) == len(values) and max(positive) / min(positive) > LOG_RATIO:
        figure.update_yaxes(type="log", dtick="D2", tickformat=".3~g")
    return figure
