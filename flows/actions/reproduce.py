"""Reproduce the variant of an MLflow run from the settings recorded there, and compare the digests of every step."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from flows.console.progress_bars import show_bars
from flows.plan.fit import check_room
from pruning_core.errors import ComputationError, InputError
from pruning_core.settings.recipe import BASELINE
from tasks.lineage.provenance import Lineage
from tasks.lineage.reproduction import changed_since, compare_lineages
from tasks.pipeline.open_pipeline import open_pipeline
from tasks.store.store import Store
from tasks.store.temporary_dirs import Builds
from tasks.tracking.comparison_run import COMPARISON, KIND
from tasks.tracking.export_run import EXPORT
from tasks.tracking.run_files import LINEAGE, SETTINGS
from tasks.tracking.run_index import Run, artifact_folder
from tasks.tracking.runs import find_runs
from tasks.workspace.workspace import Workspace, settings_in

SHOWN_MODULES = 5


def reproduce_run(prefix: str, from_cache: bool, quiet: bool) -> dict[str, Any]:
    """Compute the variant of a run again, in a temporary store, and compare digests.

    Args:
        prefix: of the run's id, long enough to be the only one.
        from_cache: use the workspace's store instead, so that stored results are not computed again.

    Returns:
        run_id, variant, changed (see `changed_since`), identical, first, steps (see `compared`).

    Raises:
        InputError: no such run, or one without recorded settings.
    """
    root = Path.cwd().resolve()
    run = _run(root, prefix)
    if run["tags"].get(KIND) == COMPARISON:
        raise InputError(
            f"run {run['run_id'][:12]} is a comparison; name the run of one of its variants: "
            + ", ".join(
                f"{tag.removeprefix('run.')} {value[:12]}" for tag, value in run["tags"].items() if tag[:4] == "run."
            )
        )
    if run["tags"].get(KIND) == EXPORT:
        parent, command = run["tags"].get("parent.variant.run_id", ""), run["tags"]["mlflow.source.name"]
        raise InputError(
            f"run {run['run_id'][:12]} is an export; reproduce the run of its variant"
            f"{f', {parent[:12]},' if parent else ''} and then: {command}"
        )
    workspace, then = _as_it_was(root, run)
    variant = run["tags"]["variant"]
    changed = changed_since(then, run["tags"].get("git.commit"), workspace.git_commit())
    if not from_cache:
        names = list(workspace.settings.variants) if variant == BASELINE else [variant]
        check_room(workspace, names[:1], evaluates=True)
    with show_bars(quiet) as (console, _), _store(workspace, from_cache) as store:
        for line in _change_lines(changed):
            console.print(line, highlight=False, markup=False)
        now = Lineage(store, open_pipeline(workspace, store=store).quality(variant)).facts()
    return {"run_id": run["run_id"], "variant": variant, "changed": changed, **compare_lineages(then, now)}


def print_reproduction(reproduction: dict[str, Any]) -> None:
    """Print the changes since the run, and which steps gave the same digest."""
    console = Console()

    def show(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    show(f"run        {reproduction['run_id']}")
    show(f"variant    {reproduction['variant']}")
    for line in _change_lines(reproduction["changed"]) or [
        "changed    nothing: commit, code and libraries are those of then"
    ]:
        show(line)
    same = sum(step["then"] == step["now"] for step in reproduction["steps"])
    show(f"steps      {same} of {len(reproduction['steps'])} with the digest of then")
    for step in reproduction["steps"]:
        if step["then"] != step["now"]:
            then = (step["then"] or "not there")[:12]
            show(f"           {step['place']} ({step['kind']}): {then} -> {step['now'][:12]}")
    if reproduction["identical"]:
        show("identical")


def require_identical(reproduction: dict[str, Any]) -> None:
    """Raise ComputationError if the model or its evaluation has another digest than in the run."""
    if not reproduction["identical"]:
        first = reproduction["first"]
        raise ComputationError(
            f"{reproduction['variant']} came out otherwise than in run {reproduction['run_id'][:12]}: "
            f"the first step with another digest is {first['place']} ({first['kind']}), {first['then'][:12]} then and "
            f"{first['now'][:12]} now"
        )


def _run(root: Path, prefix: str) -> Run:
    runs = find_runs(root)
    matching = [run for run in runs if run["run_id"].startswith(prefix.lower())]
    if len(matching) == 1 and prefix:
        return matching[0]
    if not matching:
        raise InputError(
            f"there is no finished MLflow run {prefix!r} in {root}; `espalier lineage VARIANT` names that of a variant"
        )
    raise InputError(f"{len(matching)} runs begin with {prefix!r}; give more digits of the run's id")


def _as_it_was(root: Path, run: Run) -> tuple[Workspace, dict[str, Any]]:
    """The workspace with the settings of the run, and the lineage recorded there."""
    folder = artifact_folder(root, run)
    if not all((folder / name).is_file() for name in (SETTINGS, LINEAGE)):
        raise InputError(
            f"run {run['run_id'][:12]} has no {SETTINGS} and {LINEAGE} in {folder}, so it cannot be made again; it "
            f"gets them from the same settings once more: espalier compress {run['tags']['variant']}"
        )
    settings = settings_in(root, yaml.safe_load((folder / SETTINGS).read_text()))
    return Workspace(root, settings), json.loads((folder / LINEAGE).read_text())


@contextlib.contextmanager
def _store(workspace: Workspace, from_cache: bool) -> Iterator[Store]:
    if from_cache:
        yield workspace.store
        return
    # On the workspace's own disk, since it takes what the variant takes.
    builds = Builds(workspace.hidden / "reproductions", gate=workspace.hidden / "locks" / "reproductions")
    with builds.begin("run") as folder:
        yield Store(folder)


def _change_lines(changed: dict[str, Any]) -> list[str]:
    lines = []
    if "git commit" in changed:
        then, now = (commit or "none" for commit in changed["git commit"])
        lines.append(f"commit     {then[:12]} then, {now[:12]} now")
    modules = changed.get("modules", {})
    if modules:
        names = list(modules)
        more = f" and {len(names) - SHOWN_MODULES} more" if len(names) > SHOWN_MODULES else ""
        lines.append(f"code       edited since: {', '.join(names[:SHOWN_MODULES])}{more}")
    for name, (then, now) in changed.get("versions", {}).items():
        lines.append(f"library    {name} {then} then, {now} now")
    return lines
