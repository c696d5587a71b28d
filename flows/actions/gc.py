"""`espalier gc`: remove stored results that nothing refers to any more; show them first, and why the rest stays."""

from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.console.progress_bars import show_bars
from flows.sweep_variants import expand_sweep
from pruning_core.errors import InputError
from pruning_core.settings.recipe import BASELINE
from tasks.engine.look import Look
from tasks.lineage.gc import Item, plan_collection, remove
from tasks.lineage.gc_roots import Root, roots
from tasks.pipeline.open_pipeline import evaluate_variant, open_pipeline
from tasks.store.temporary_dirs import Builds
from tasks.workspace.workspace import Workspace

SHOWN_REASONS = 12
MB = 1e6


def collect(keep_statistics: bool, older_than: float, dry_run: bool, yes: bool, quiet: bool) -> dict[str, Any]:
    """Find the results that may be removed, and remove them if `yes` is set.

    Returns:
        goes (items), kept {why: {"artifacts", "bytes"}}, bytes (that go, or went), removed (items; None: only looked).

    Raises:
        InputError: params.yaml, dvc.lock or a registered model cannot be understood, or another process uses the store
            from which something is to be removed: nothing is removed then.
    """
    if older_than < 0:
        raise InputError(f"--older-than is a number of days, 0 or more, got {older_than:g}")
    workspace = Workspace.open(None)
    store, removes = workspace.store, yes and not dry_run
    # Processes that start later wait; those that ended before have recorded their results, which are read below.
    with store.use.alone() if removes else nullcontext(), show_bars(quiet) as (_, bars):
        done = bars.waiting("finding out what is named")
        named, scratch = _params_roots(workspace)
        plan = plan_collection(store, [*roots(workspace.root), *named], scratch, keep_statistics, older_than)
        done()
        if removes:
            done = bars.waiting("removing")
            remove(store, plan.goes)
            _builds(workspace).remove_abandoned()
            done()
    kept = {why: {"artifacts": len(items), "bytes": _size(items)} for why, items in plan.kept.items()}
    return {
        "goes": [asdict(item) for item in plan.goes],
        "kept": kept,
        "bytes": _size(plan.goes),
        "removed": [asdict(item) for item in plan.goes] if removes else None,
    }


def print_collection(collection: dict[str, Any]) -> None:
    """Print what is removed, by kind, and why the rest stays."""
    console = Console()
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in collection["goes"]:
        groups.setdefault(item["kind"] or item["place"], []).append(item)
    table = _table("goes" if collection["removed"] is None else "went")
    for kind, items in sorted(groups.items()):
        table.add_row(kind, str(len(items)), _mb(sum(item["size"] for item in items)))
    table.add_row("total", str(len(collection["goes"])), _mb(collection["bytes"]), style="bold")
    console.print(table)
    table = _table("stays because of")
    reasons = sorted(collection["kept"].items(), key=lambda entry: -entry[1]["bytes"])
    for why, held in reasons[:SHOWN_REASONS]:
        table.add_row(why, str(held["artifacts"]), _mb(held["bytes"]))
    rest = [held for _, held in reasons[SHOWN_REASONS:]]
    if rest:
        counts = sum(held["artifacts"] for held in rest), sum(held["bytes"] for held in rest)
        table.add_row(f"{len(rest)} others (see --json)", str(counts[0]), _mb(counts[1]))
    console.print("", table, sep="\n")


def require_consent(collection: dict[str, Any], dry_run: bool) -> None:
    """Raise InputError if something would be removed and neither --yes nor --dry-run was given."""
    if collection["goes"] and collection["removed"] is None and not dry_run:
        raise InputError("nothing was removed; add --yes to remove what goes, or --dry-run to look only")


def _params_roots(workspace: Workspace) -> tuple[list[Root], set[str]]:
    """The stored results behind the variants of params.yaml and its sweep, and the keys that are not computed yet."""
    variants = workspace.settings.variants
    if workspace.settings.sweep is not None:
        variants = variants | expand_sweep(workspace, {})[0].settings.variants
    look, variant_roots = Look(), []
    pipeline = open_pipeline(replace(workspace, settings=replace(workspace.settings, variants=variants)), look)
    for name in (BASELINE, *variants):
        begun = len(look.lookups)
        evaluate_variant(pipeline, name)
        pipeline.speed(name)
        keys = [lookup.call.key for lookup in look.lookups[begun:] if lookup.call.key]
        variant_roots.append(Root(f"params.yaml: {name}", tuple(dict.fromkeys(keys))))
    missing = {lookup.call.key for lookup in look.lookups if lookup.call.key and lookup.artifact is None}
    return variant_roots, missing


def _builds(workspace: Workspace) -> Builds:
    return Builds(workspace.hidden / "reproductions", gate=workspace.hidden / "locks" / "reproductions")


def _table(title: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, overflow="fold")
    for column in ("number", "size"):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _size(items: list[Item]) -> int:
    return sum(item.size for item in items)


def _mb(size: int) -> str:
    return f"{size / MB:,.2f} MB"
