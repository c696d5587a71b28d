"""The table of a sweep for the terminal: loss and cost of each variant, and the Pareto fronts."""

from typing import Any

from rich.console import Console

from flows.console.column_blocks import Columns
from pruning_core.errors import ComputationError
from tasks.records.comparison import comparable, row
from tasks.records.pareto import fronts

TITLES = ("variant", "ppl", "loss vs dense", "removed", "MB", "packed", "tok/s", "front")
NOTE = (
    "Loss in nats per token above dense, ± paired standard error. MB: as stored, and with zeros behind a bitmask. "
    "front: no other variant has both a lower loss and less of this (packed or stored bytes, or decoding time; times "
    "whose quartiles overlap count as equal)."
)


def print_sweep(outcome: dict[str, Any]) -> None:
    """Print the table, the skipped and failed variants, and the path of the report.

    Args:
        outcome: what the flow returned.
    """
    variants = comparable(outcome["records"])
    on = fronts(variants)
    cells = [[*_cells(row(variant)), ", ".join(on[variant.name])] for variant in variants]
    columns = dict(zip(TITLES, zip(*cells, strict=True), strict=True))
    console = Console()
    styles = ["" if on[variant.name] else "dim" for variant in variants]
    Columns(columns, frozenset({"front"}), styles).print(console)
    console.print(f"\n{NOTE}", style="dim")
    for title, entries in (("skipped", outcome["skipped"]), ("failed", outcome["failed"].items())):
        for what, why in entries:
            console.print(f"{title:10} {what}: {why}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"report     {outcome['report']}", highlight=False, markup=False, soft_wrap=True)


def require_all(outcome: dict[str, Any]) -> None:
    """Raise ComputationError if variants failed; called after the table was printed."""
    failed, done = outcome["failed"], len(outcome["records"]) - 1
    if failed:
        raise ComputationError(
            f"{len(failed)} of {done + len(failed)} variants failed ({', '.join(failed)}); the others are stored, and "
            "the same command goes on with what is missing"
        )


def _cells(figures: dict[str, Any]) -> list[str]:
    return [
        figures["name"],
        _number(figures["perplexity"], ".2f"),
        _difference(figures),
        "-" if figures["sparsity"] is None else f"{100 * figures['sparsity']:.1f} %",
        _number(figures["size_bytes"] and figures["size_bytes"] / 1e6, ",.2f"),
        _number(figures["packed_bytes"] and figures["packed_bytes"] / 1e6, ",.2f"),
        _number(figures["decode_tokens_per_second"], ",.0f"),
    ]


def _difference(figures: dict[str, Any]) -> str:
    if figures["baseline"] or figures["loss_increase"] is None:
        return "-"
    error = figures["loss_increase_error"]
    return f"{figures['loss_increase']:+.3f}" + (f" ± {error:.3f}" if error is not None else "")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
