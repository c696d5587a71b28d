"""The fronts of a comparison as one plot, with a button for each cost."""

from html import escape
from typing import Any

from tasks.records.pareto import COSTS, Cost, front, loss_increase
from tasks.records.variant import Variant
from tasks.report.palette import COLOURS, DENSE
from tasks.report.plots import new_figure

ON, OFF = COLOURS[2], "#b9c3cc"
# More names than these would cover each other; the others are told when pointed at.
NAMED = 12
TRACES = 2


def pareto(variants: list[Variant]) -> Any:
    """Loss increase against each cost: every variant a point, those that no other beats joined by a line."""
    panels = [(cost, _points(variants, cost)) for cost in COSTS]
    panels = [(cost, points) for cost, points in panels if len(points) > 1]
    figure = new_figure(panels[0][0].title if panels else "", "loss above dense, nats per token")
    for index, (cost, points) in enumerate(panels):
        best = front([variant for variant, _ in points], cost)
        _draw(figure, points, best, visible=index == 0)
    buttons = [
        {
            "label": cost.name,
            "method": "update",
            "args": [
                {"visible": [place // TRACES == index for place in range(TRACES * len(panels))]},
                {"xaxis.title.text": cost.title},
            ],
        }
        for index, (cost, _) in enumerate(panels)
    ]
    if len(buttons) > 1:
        menu = {"type": "buttons", "direction": "right", "x": 0, "xanchor": "left", "y": 1.16, "yanchor": "top"}
        figure.update_layout(updatemenus=[menu | {"buttons": buttons, "showactive": True}], margin={"t": 56})
    # Both ends of the front show best where neither axis starts at zero by force.
    figure.update_layout(showlegend=False, height=420)
    return figure


def _points(variants: list[Variant], cost: Cost) -> list[tuple[Variant, float]]:
    """(variant, its cost as shown: megabytes, or milliseconds per token) of those whose loss and cost are known."""
    points = []
    for variant in variants:
        interval = cost.interval(variant)
        if interval is not None and loss_increase(variant) is not None:
            points.append((variant, _plotted_cost(variant, cost, interval)))
    return points


def _plotted_cost(variant: Variant, cost: Cost, interval: tuple[float, float]) -> float:
    return 1e3 / variant.speed.decode_tokens_per_second.median if cost.name == "speed" else interval[0] / 1e6


def _draw(figure: Any, points: list[tuple[Variant, float]], best: list[str], visible: bool) -> None:
    place = {variant.name: (value, loss_increase(variant)) for variant, value in points}
    line = [place[name] for name in best]
    costs = [value for value, _ in place.values()]
    middle = (min(costs) + max(costs)) / 2
    figure.add_scatter(
        x=[value for value, _ in line],
        y=[loss for _, loss in line],
        mode="lines",
        line={"color": ON, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        visible=visible,
    )
    figure.add_scatter(
        x=costs,
        y=[loss for _, loss in place.values()],
        mode="markers+text",
        text=[escape(name) if name in best and len(best) <= NAMED else "" for name in place],
        # Neighbours on a front are close to each other; a name that begins at the edge would be cut there.
        textposition=[
            f"{'bottom' if name in best and best.index(name) % 2 else 'top'} {'right' if value <= middle else 'left'}"
            for name, (value, _) in place.items()
        ],
        textfont={"size": 11},
        customdata=[[escape(name), "on the front" if name in best else "beaten by another"] for name in place],
        marker={
            "size": 10,
            "color": [ON if name in best else OFF for name in place],
            "symbol": ["star" if variant.is_baseline else "circle" for variant, _ in points],
            "line": {"color": DENSE, "width": 0.5},
        },
        hovertemplate="<b>%{customdata[0]}</b><br>%{x:.4g}<br>loss %{y:+.4f}<br>%{customdata[1]}<extra></extra>",
        visible=visible,
    )
