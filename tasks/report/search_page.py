"""The convergence and the result of a search, as one self-contained page."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tasks.report.palette import COLOURS, DENSE
from tasks.report.plots import new_figure

SETTINGS = {"displayModeBar": False, "responsive": True}
STYLE = "body{font:15px system-ui,sans-serif;color:#26323d;max-width:960px;margin:24px auto;padding:0 16px}"


def convergence(search: Mapping[str, Any]) -> Any:
    """The best validation fitness by tokens evaluated, and the fitness of every start as a line across."""
    figure = new_figure("search tokens evaluated", "KL to dense on validation windows, nats per token")
    history = search["history"]
    hover = "generation %{customdata}<br>%{x:,} tokens<br>KL %{y:.4f}<extra></extra>"
    for name, key, style in (("best so far", "best", {"width": 2.5}), ("parent", "validation", {"width": 1})):
        figure.add_scatter(
            x=[entry["tokens"] for entry in history],
            y=[entry[key] for entry in history],
            customdata=[entry["generation"] for entry in history],
            name=name,
            mode="lines",
            line={"color": COLOURS[0 if key == "best" else 1], "shape": "hv", **style},
            hovertemplate=hover,
        )
    named = [start for start in search["initial"] if not start["label"].startswith(("varied", "random"))]
    for start in named:
        figure.add_hline(y=start["fitness"], line={"color": DENSE, "dash": "dot", "width": 1})
        place = {"x": 1, "xref": "paper", "xanchor": "right", "y": start["fitness"], "yshift": 8, "showarrow": False}
        figure.add_annotation(text=escape(start["label"]), font={"color": DENSE, "size": 11}, **place)
    return figure


def profile(rows: Sequence[Mapping[str, Any]], target: float) -> Any:
    """The sparsity of every matrix over depth, a curve per kind."""
    figure = new_figure("block", "sparsity")
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["name"].rpartition(".")[2], []).append(row)
    for number, (kind, members) in enumerate(kinds.items()):
        figure.add_scatter(
            x=[row["block"] for row in members],
            y=[row["sparsity"] for row in members],
            name=escape(kind),
            mode="lines+markers",
            marker={"size": 6},
            line={"color": COLOURS[number % len(COLOURS)]},
            hovertemplate=f"<b>{escape(kind)}</b>, block %{{x}}<br>sparsity %{{y:.2%}}<extra></extra>",
        )
    figure.add_hline(y=target, line={"color": DENSE, "dash": "dash", "width": 1.5})
    figure.update_yaxes(tickformat=".0%")
    return figure


def search_page(search: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], target: float) -> str:
    """Both plots on a page that needs no network, as text.

    Args:
        search: {initial, history, best} of a search.
        rows: of shares.json, per matrix its name, block and sparsity.
    """
    from plotly.io import to_html
    from plotly.offline import get_plotlyjs

    titled = (("Convergence", convergence(search)), ("Sparsity by depth", profile(rows, target)))
    drawn = "".join(
        f"<h2>{title}</h2>"
        + to_html(figure, SETTINGS, include_plotlyjs=False, full_html=False, div_id=f"search-{number}")
        for number, (title, figure) in enumerate(titled)
    )
    head = f'<meta charset="utf-8"><title>Search</title><style>{STYLE}</style><script>{get_plotlyjs()}</script>'
    return f"<!doctype html><html><head>{head}</head><body>{drawn}</body></html>\n"
