"""Results as tables for the terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from flows.console.column_blocks import Columns
from tasks.records.comparison import comparison_table
from tasks.records.variant import Variant

NOTE = (
    "Loss and KL in nats per token, ± paired standard error. Removed: share of the prunable weights. bits/w: per "
    "weight of the whole model if a bit mask stood for the zeros. tok/s: decoding, measured once for each model, when "
    "it was new; zeros stored densely make nothing faster."
)


def print_comparison(variants: list[Variant]) -> None:
    """Print all variants, the dense model first."""
    rows = comparison_table(variants)
    columns = {
        "variant": [row["name"] for row in rows],
        "ppl": [_number(row["perplexity"], ".2f") for row in rows],
        "loss vs dense": [_difference(row) for row in rows],
        "KL": [_number(row["kl_to_dense"], ".3f") for row in rows],
        "top-1": [_percent(row["top1_agreement"]) for row in rows],
        "tasks": [_percent(row["accuracy"]) for row in rows],
        "removed": [_percent(row["sparsity"]) for row in rows],
        "bits/w": [_number(row["bits_per_weight"], ".2f") for row in rows],
        "tok/s": [_number(row["decode_tokens_per_second"], ",.0f") for row in rows],
    }
    if all(row["accuracy"] is None for row in rows):
        del columns["tasks"]
    console = Console()
    Columns(columns).print(console)
    allocations = {variant.name: variant.facts.allocation for variant in variants}
    lines = [f"{name} by allocation {allocation}" for name, allocation in allocations.items() if allocation]
    if lines:
        console.print("", *lines, sep="\n", highlight=False)
    console.print(f"\n{NOTE}", style="dim")


def print_facts(facts: dict[str, Any]) -> None:
    """Print quality, size and speed of one model."""
    quality, size, speed = facts["quality"], facts["size"], facts["speed"]
    rows = {
        "model": facts["model"],
        "perplexity": f"{_number(quality['perplexity'], '.4f')} on {quality['windows']} windows, "
        f"{quality['tokens']:,} predictions",
        "mean loss": f"{quality['mean_loss']:.5f} ± {_number(quality['standard_error'], '.5f')} nats per token",
        "weights": f"{size['file_bytes']:,} bytes, {size['parameters']:,} parameters, "
        f"{_percent(size['zero_fraction'])} zero",
        "prefill": _rate(speed["prefill"]),
        "decode": _rate(speed["decode"]),
        "protocol": quality["protocol"]["digest"][:16],
    }
    for name, result in facts["tasks"].items():
        guessing = f", guessing gives {_percent(result['chance'])}" if result["chance"] else ""
        rows[name] = f"{_percent(result['accuracy'])} of {result['items']} items right{guessing}"
    _print_rows(rows)


def print_explanation(variant: str, steps: list[dict[str, Any]]) -> None:
    """Print for each step whether it is cached, and why not."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("step", "state", "why"):
        table.add_column(title)
    for step in steps:
        state = "[green]cached[/]" if step["cached"] else "[yellow]to compute[/]"
        table.add_row(step["label"], state, "" if step["cached"] else step["reason"])
    Console().print(table)
    waiting = sum(not step["cached"] for step in steps)
    Console().print(f"{variant}: {len(steps) - waiting} of {len(steps)} steps cached", style="bold")


def print_lineage(lineage: dict[str, Any]) -> None:
    """Print the chain of results behind a variant."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("link", "digest", "where"):
        table.add_column(title, no_wrap=title != "where", overflow="fold")
    for link in lineage["chain"]:
        table.add_row(link["what"], link["digest"][:16], link["path"])
    Console().print(table)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(lineage["versions"].items()))
    _print_rows(
        {
            "code": lineage["code"][:16],
            "git commit": lineage["git_commit"] or "not in git",
            "MLflow run": lineage["run_id"] or "not tracked",
            "versions": versions,
        }
    )


def _print_rows(rows: dict[str, str]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)


def _difference(row: dict[str, Any]) -> str:
    if row["baseline"] or row["loss_increase"] is None:
        return "-"
    return f"{row['loss_increase']:+.3f} ± {_number(row['loss_increase_error'], '.3f')}"


def _rate(rate: dict[str, float]) -> str:
    return (
        f"{rate['median']:,.0f} tokens per second "
        f"(quartiles {rate['lower_quartile']:,.0f} to {rate['upper_quartile']:,.0f})"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def print_export(record: dict[str, Any]) -> None:
    """Print quality and bytes of dense model, variant and export, and speed and memory of dense model and export."""
    console, quality, sizes = Console(), record["quality"], record["sizes"]
    names = {"dense": "dense", "variant": record["variant"], "export": record["facts"]["format"]["name"]}
    shown = [key for key in names if key != "variant" or record["variant"] != "dense"]
    batch = min(row["batch"] for row in record["serving"]["rows"])
    speeds = {row["model"]: row for row in record["serving"]["rows"] if row["batch"] == batch}
    rows = [(quality[key], sizes.get(key), speeds.get(key)) for key in shown]
    Columns(
        {
            "": [names[key] for key in shown],
            "ppl": [_perplexity(metrics["perplexity"]) for metrics, _, _ in rows],
            "loss vs dense": [
                "-" if key == "dense" else f"{quality[key]['difference_to_dense']['mean']:+.4f}" for key in shown
            ],
            "MB": ["-" if size is None else f"{size / 1e6:.2f}" for _, size, _ in rows],
            "prefill tok/s": ["-" if speed is None else f"{speed['prefill']['median']:,.0f}" for _, _, speed in rows],
            "decode tok/s": ["-" if speed is None else f"{speed['decode']['median']:,.1f}" for _, _, speed in rows],
            "peak MB": ["-" if speed is None else f"{speed['peak_bytes'] / 1e6:,.0f}" for _, _, speed in rows],
        }
    ).print(console)
    verification, zeros = record["facts"]["verified"], record["facts"]["verified"]["zeros"]
    kept = f"; {zeros['after']:,} of {zeros['before']:,} zeros are zeros still" if zeros["before"] else ""
    console.print(
        f"\n{verification['equal']} of {verification['tensors']} tensors come back bit for bit{kept}; "
        f"{record['facts']['bits_per_weight']:.2f} bits per stored weight",
        highlight=False,
    )
    print(f"\nexport     {record['path']}")


def _perplexity(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
