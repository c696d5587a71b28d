"""The plan of a variant as tables for the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

KINDS = {
    "products": "linear layers",
    "attention": "attention",
    "statistics": "Hessians",
    "factor": "factors",
    "sweep": "sweep",
    "least_squares": "least squares",
}


def print_plan(plan: dict[str, Any]) -> None:
    """Print memory by phase, work and time by kind, and disk."""
    console = Console()
    console.print(
        f"[bold]{plan['variant']}[/]: {plan['blocks']} blocks, {plan['parameters'] / 1e6:,.1f} M parameters, "
        f"{plan['prunable'] / 1e6:,.1f} M of them prunable, on {plan['device']}\n",
        highlight=False,
    )
    console.print(_memory(plan))
    console.print()
    console.print(_work(plan))
    console.print()
    console.print(_totals(plan))
    console.print(
        f"\nSeconds at {plan['rate'] / 1e9:,.1f} GFLOP/s in matrix products, measured at a load of {plan['load']:.1f}; "
        "evaluation is not counted.",
        style="dim",
        highlight=False,
    )
    if plan["not_evaluated"] and not plan["refused"]:
        console.print(f"\n{plan['not_evaluated']}", highlight=False)


def _memory(plan: dict[str, Any]) -> Table:
    device = plan["device"] == "cuda"
    table = _table("phase", "RAM", *(["VRAM"] if device else []))
    for phase, size in plan["ram"].items():
        table.add_row(phase, _gb(size), *([_gb(plan["vram"][phase])] if device else []))
    table.add_row("then evaluate", _gb(plan["evaluation_ram"]))
    for what, size in plan["available"].items():
        if what != "disk":
            table.add_row(f"there are ({what.upper()})", _gb(size))
    return table


def _work(plan: dict[str, Any]) -> Table:
    table = _table("work", "TFLOP", "seconds")
    rest = dict(plan["seconds"])
    for kind, label in KINDS.items():
        table.add_row(label, f"{plan['flops'][kind] / 1e12:,.3f}", f"{rest.pop(kind):,.1f}")
    for kind, seconds in rest.items():
        operations = f"{plan['flops']['total'] / 1e12:,.3f}" if kind == "total" else ""
        table.add_row(kind, operations, f"{seconds:,.1f}")
    return table


def _totals(plan: dict[str, Any]) -> Table:
    table = _table("disk", "bytes")
    for what, size in plan["disk"].items():
        table.add_row(what, _gb(size))
    table.add_row("free now", _gb(plan["available"]["disk"]))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for title in others:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
