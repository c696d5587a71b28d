"""The search of an allocation on its own: the same step as in a variant whose recipe says `evolutionary`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.console.progress_bars import show_bars
from pruning_core.checkpoint.durable_files import replace_bytes
from pruning_core.settings.recipe import Recipe, parse_recipe
from tasks.engine.step import Context
from tasks.pipeline.allocation import allocate
from tasks.pipeline.open_pipeline import open_pipeline
from tasks.report.drawings import draw_search
from tasks.steps.search import EVENT
from tasks.store.artifact import Artifact
from tasks.workspace.workspace import Workspace

EVOLUTIONARY, PAGES = "evolutionary", "reports"


def search_variant(name: str, overrides: list[str] | None, quiet: bool) -> dict[str, Any]:
    """Search the allocation of a variant; with the search's defaults where its recipe has another allocation or none.

    Returns:
        variant, target, sparsity, fitness (KL to dense on the validation windows, nats per token), initial (label and
        fitness of every start, best first), generations, tokens, tokens_per_second (of the process that finished it,
        None where unknown), forwards_saved, ledger, path and page.
    """
    workspace = Workspace.open(None, overrides)
    recipe = with_search(workspace.settings.recipe(name), workspace.settings.compute.target)
    settings = replace(workspace.settings, variants={**workspace.settings.variants, name: recipe})
    pipeline = open_pipeline(replace(workspace, settings=settings))
    with show_bars(quiet):
        artifact = allocate(pipeline, recipe)
    page = write_page(artifact, workspace.hidden / PAGES / f"search-{name}.html")
    return search_facts(name, artifact, tokens_per_second(pipeline.context, artifact)) | {"page": str(page)}


def with_search(recipe: Recipe, device: str) -> Recipe:
    """The recipe itself where its allocation is a search, otherwise with a search of the default settings."""
    if recipe.allocation is not None and recipe.allocation.name == EVOLUTIONARY:
        return recipe
    return parse_recipe(recipe.name, {**recipe.spec, "allocation": {"name": EVOLUTIONARY}}, device)


def tokens_per_second(context: Context, artifact: Artifact) -> float | None:
    """Tokens evaluated per second by the process that finished a search."""
    seen = [event for event in context.store.events.of_all_processes() if event["event"] == EVENT]
    events = [event for event in seen if event["key"] == artifact.key and float(event["seconds"]) > 0]
    return int(events[-1]["tokens"]) / float(events[-1]["seconds"]) if events else None


def write_page(artifact: Artifact, path: Path) -> Path:
    """Write the page of a search, atomically; returns its path."""
    replace_bytes(path, draw_search(artifact.path).encode())
    return path


def search_facts(name: str, artifact: Artifact, speed: float | None) -> dict[str, Any]:
    """The result of a search as JSON, without its page; see `search_variant`."""
    facts = artifact.facts
    search = dict(facts["search"])
    starts = sorted(search.pop("initial"), key=lambda start: start["fitness"])
    return {
        "variant": name,
        "target": facts["target"],
        "sparsity": facts["sparsity"],
        "initial": starts,
        **search,
        "tokens_per_second": speed,
        "ledger": facts["ledger"],
        "cached": artifact.hit,
        "path": str(artifact.path),
    }


def print_search(search: dict[str, Any]) -> None:
    """Print the starts from worst to best, the result and its path."""
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("allocation", no_wrap=True)
    table.add_column("KL to dense", justify="right")
    for start in reversed(search["initial"]):
        table.add_row(start["label"], f"{start['fitness']:.4f}")
    if search["fitness"] is not None:
        table.add_row("[bold]searched[/]", f"[bold]{search['fitness']:.4f}[/]")
    console.print(table)
    rate = search["tokens_per_second"]
    speed = f", {rate:,.0f} tokens per second" if rate else ""
    console.print(
        f"\n{search['generations']} generations, {search['tokens']:,} tokens evaluated{speed}; "
        f"prefixes saved {search['forwards_saved']:.1%} of the block forwards",
        highlight=False,
    )
    for entry in search["ledger"]:
        console.print(f"{entry['event']}: {entry['what']}; rule {entry['rule']}", highlight=False)
    console.print(f"sparsity   {search['sparsity']:.4%} of the prunable weights, {search['target']:.4%} asked for")
    console.print(f"result     {search['path']}\nplots      {search['page']}", soft_wrap=True, highlight=False)
