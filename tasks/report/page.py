"""All variants on one page: a self-contained HTML file that needs no network and no server.

Whatever comes from outside (names, recipes, digests) is escaped. The page holds no time and no random
identifier: equal records give an equal file.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pruning_core.checkpoint.durable_files import replace_bytes
from tasks.records.comparison import comparable, comparison_table, row
from tasks.records.pareto import fronts
from tasks.records.variant import Variant
from tasks.report import plots
from tasks.report.details import details, texts
from tasks.report.lineage import ledgers
from tasks.report.pareto_plot import pareto
from tasks.report.summary import summary
from tasks.report.tables import agreements, export_rows, lm_eval_tables, sample_rows
from tasks.report.templates import fill_template

__all__ = ["comparison_table", "write_report"]

TEMPLATE = Path(__file__).with_name("report.html")
UNKNOWN = "–"
# Beyond this number of variants a plot needs the whole width of the page.
MANY = 9
SETTINGS = {"displayModeBar": False, "responsive": True}


def write_report(variants: Iterable[Variant], destination: Path, workspace: Path) -> Path:
    """Write the report, replacing an older one at once, and return where it is.

    Args:
        destination: the .html file; relative paths start at the workspace.

    Raises:
        InputError: no variant, or evaluations that do not compare.
    """
    page = render(comparable(variants))
    path = Path(workspace) / destination
    replace_bytes(path, page.encode())
    return path


def render(variants: list[Variant]) -> str:
    """The page as text."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return fill_template(
        TEMPLATE,
        summary=summary(variants),
        rows=_table(variants),
        plots=[(title, note, Markup(html)) for title, note, html in _plots(variants)],
        wide=len(variants) > MANY,
        samples=sample_rows(variants),
        agreements=agreements(variants),
        tasks=lm_eval_tables(variants),
        exports=export_rows(variants),
        ledgers=ledgers(variants),
        protocol=_flat(variants[0].metrics.protocol) | texts(variants[0]),
        details=[details(variant) for variant in variants],
        plotly=Markup(get_plotlyjs()),
        unknown=UNKNOWN,
    )


def _table(variants: list[Variant]) -> list[dict[str, Any]]:
    rows = [row(variant) for variant in variants]
    increases = [max(figures["loss_increase"] or 0.0, 0.0) for figures in rows]
    longest = max(increases) or 1.0
    on = fronts(variants)
    return [
        _cells(figures) | {"bar": round(100 * increase / longest, 1), "fronts": ", ".join(on[figures["name"]])}
        for figures, increase in zip(rows, increases, strict=True)
    ]


def _cells(figures: dict[str, Any]) -> dict[str, Any]:
    """A row as the text of its cells."""
    error = figures["loss_increase_error"]
    size, packed = figures["size_bytes"], figures["packed_bytes"]
    return {
        "name": figures["name"],
        "baseline": figures["baseline"],
        "fallbacks": figures["fallbacks"],
        "perplexity": _text(figures["perplexity"], ".4g" if (figures["perplexity"] or 0) >= 1000 else ".3f"),
        "loss_increase": _text(figures["loss_increase"], "+.4f"),
        "loss_error": f"± {error:.4f}" if error else "",
        "kl_to_dense": _text(figures["kl_to_dense"], ".4f"),
        "top1_agreement": _text(figures["top1_agreement"], ".1%"),
        "sparsity": _text(figures["sparsity"], ".1%"),
        "sparsity_whole_model": _text(figures["sparsity_whole_model"], ".1%"),
        "size": _text(None if size is None else size / 1e6, ",.2f"),
        "packed": _text(None if packed is None else packed / 1e6, ",.2f"),
        "bits_per_weight": _text(figures["bits_per_weight"], ".2f"),
        "prefill": _text(figures["prefill_tokens_per_second"], ",.0f"),
        "decode": _text(figures["decode_tokens_per_second"], ",.0f"),
    }


def _text(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)


def _plots(variants: list[Variant]) -> Iterable[tuple[str, str, str]]:
    """(title, note, HTML) of every plot that has something to show."""
    from plotly.io import to_html

    drawn = (
        ("Quality against sparsity", "Lower is better.", plots.quality(variants)),
        (
            "Quality against size and speed",
            "Lower left is better; the line joins those that no other variant beats in both.",
            pareto(variants),
        ),
        (
            "Difference to dense, window by window",
            "Box: quartiles; dashed: mean.",
            plots.window_differences(variants),
        ),
        ("Sparsity by depth", "Weighted by parameters.", plots.sparsity_by_depth(variants)),
        (
            "Reconstruction loss by depth",
            "0.5 tr(D H Dᵀ), summed over the block.",
            plots.loss_by_depth(variants),
        ),
        (
            "Search of the allocation",
            "The best candidate so far on the search's own validation windows.",
            plots.search_convergence(variants),
        ),
        (
            "Recovery",
            "Loss on windows set apart from the training text.",
            plots.recovery(variants),
        ),
    )
    for number, (title, note, figure) in enumerate(drawn):
        if figure.data:
            html = to_html(
                plots.legible(figure), SETTINGS, include_plotlyjs=False, full_html=False, div_id=f"plot-{number}"
            )
            yield title, note, html


def _flat(values: dict[str, Any]) -> dict[str, str]:
    return {name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}
