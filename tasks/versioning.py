"""DVC: the same results as stage outputs, so that `dvc repro`, `dvc push` and `dvc exp` work on them.

This is the only module that imports dvc.
"""

import csv
import io
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pruning_core.checkpoint.durable_files import replace_bytes
from pruning_core.errors import InputError
from pruning_core.progress import Progress, ignore_progress
from pruning_core.settings.recipe import BASELINE
from tasks.steps.evaluate import losses_of
from tasks.store.artifact import Artifact
from tasks.store.directories import MANIFEST
from tasks.store.store import Store

OUTPUTS = Path("artifacts")
WAIT_SECONDS = 600.0
"""How long another process may keep DVC busy."""
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class StageOutput:
    """What a DVC stage keeps in the workspace.

    Args:
        stage: its name in dvc.yaml.
        path: relative to the workspace.
        artifact: what lies there.
    """

    stage: str
    path: Path
    artifact: Artifact


def model_output(name: str, artifact: Artifact) -> StageOutput:
    """A variant's model directory."""
    return StageOutput(f"prune@{name}", OUTPUTS / "models" / name, artifact)


def evaluation_output(name: str, artifact: Artifact) -> StageOutput:
    """A variant's metrics."""
    stage = "evaluate-dense" if name == BASELINE else f"evaluate@{name}"
    return StageOutput(stage, OUTPUTS / "evaluations" / name, artifact)


def tokens_outputs(calibration: Artifact, evaluation: Artifact) -> list[StageOutput]:
    """The token windows of both roles, one stage."""
    folder = OUTPUTS / "tokens"
    return [
        StageOutput("tokens", folder / "calibration", calibration),
        StageOutput("tokens", folder / "evaluation", evaluation),
    ]


def is_repository(workspace: Path) -> bool:
    """Whether the workspace is under DVC, and that under git or told to do without (`dvc init --no-scm`).

    The files of a release archive hold `.dvc` but no git: DVC would refuse to work there.
    """
    config = workspace / ".dvc" / "config"
    if not config.is_file() or not (workspace / "dvc.yaml").is_file():
        return False
    with_git = any((folder / ".git").exists() for folder in (workspace, *workspace.parents))
    return with_git or "no_scm = true" in config.read_text().lower()


def place(workspace: Path, store: Store, outputs: list[StageOutput]) -> None:
    """Put copies of the artifacts where dvc.yaml expects them; what is there already stays."""
    for output in outputs:
        store.materialize(output.artifact, workspace / output.path)


def place_figures(
    workspace: Path, name: str, evaluation: Artifact, baseline: Artifact, answers: Artifact | None = None
) -> None:
    """Write what `dvc metrics show` and `dvc plots show` read: headline metrics, and losses window by window."""
    metrics = json.loads((evaluation.path / "metrics.json").read_text())
    headline = {
        "perplexity": metrics["perplexity"],
        "loss_increase": metrics["difference_to_dense"]["mean"],
        "kl_to_dense": metrics["kl_to_dense"],
        "top1_agreement": metrics["top1_agreement"],
    }
    if answers is not None:
        headline["accuracy"] = {name: result["accuracy"] for name, result in answers.facts["tasks"].items()}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["window", "dense_loss", "loss_increase"])
    pairs = zip(losses_of(baseline).tolist(), losses_of(evaluation).tolist(), strict=True)
    writer.writerows([window, dense, loss - dense] for window, (dense, loss) in enumerate(pairs))
    _replace(workspace / OUTPUTS / "metrics" / f"{name}.json", json.dumps(headline, indent=1) + "\n")
    _replace(workspace / OUTPUTS / "plots" / f"{name}.csv", table.getvalue())


def _replace(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text() != text:
        replace_bytes(path, text.encode())


def commit(workspace: Path, stages: list[str], progress: Progress = ignore_progress) -> None:
    """Record the outputs that lie in the workspace in dvc.lock and DVC's cache: `dvc repro` then skips their stages.

    Raises:
        InputError: DVC refuses, as for a key that dvc.yaml watches and params.yaml lacks, or while another dvc runs.
    """
    from dvc.exceptions import DvcException

    try:
        _commit(workspace, stages, progress)
    except DvcException as error:
        raise InputError(
            f"DVC cannot record the results ({' '.join(str(error).split())}); they are stored: "
            "put that right and run the same command again"
        ) from error


def _commit(workspace: Path, stages: list[str], progress: Progress) -> None:
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    with Repo(str(workspace)) as repo:
        # Every commit rewrites the lock: only what DVC would run again is worth one.
        progress(0, len(stages))
        changed = _patiently(lambda: repo.status(stages))
        for done, stage in enumerate(stages, start=1):
            if stage in changed:
                _patiently(lambda stage=stage: repo.commit(stage, force=True))
            progress(done, len(stages))


def _patiently(work: Callable[[], Any]) -> Any:
    """The result of `work`, retried while another DVC process holds the lock; DVC itself would give up."""
    from dvc.lock import LockError

    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return work()
        except LockError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def push(workspace: Path, stages: list[str]) -> tuple[str | None, int]:
    """Send the outputs of these stages to DVC's default remote.

    Returns:
        The remote's name, None where none is configured, and how many files it did not have yet.

    Raises:
        InputError: the remote cannot be written to.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    with Repo(str(workspace)) as repo:
        remote = repo.config["core"].get("remote")
        if remote is None:
            return None, 0
        try:
            return remote, repo.push(targets=stages, remote=remote)
        except (DvcException, OSError) as error:
            raise InputError(
                f"DVC cannot push to the remote {remote!r} ({' '.join(str(error).split())}); the results are stored: "
                "put that right, or set schedule.push to false, and the next run goes on there"
            ) from error


def locked_keys(workspace: Path) -> dict[str, list[str] | None]:
    """Path -> keys of the artifacts in every folder that dvc.lock names, as DVC's cache has it; None: it has it not."""
    folders = {path: md5 for path, md5 in output_md5s(workspace).items() if md5.endswith(".dir")}
    if not folders:
        return {}
    from dvc.repo import Repo

    with Repo(str(workspace)) as repo:
        cache = repo.cache.local
        return {path: _cached_keys(lambda md5: Path(cache.oid_to_path(md5)), md5) for path, md5 in folders.items()}


def _cached_keys(cached: Callable[[str], Path], folder: str) -> list[str] | None:
    """The keys in the manifests of a folder; `cached` gives the file of an md5."""
    try:
        entries = json.loads(cached(folder).read_text())
        manifests = [entry["md5"] for entry in entries if Path(entry["relpath"]).name == MANIFEST]
        return [json.loads(cached(md5).read_text())["key"] for md5 in manifests]
    except FileNotFoundError:
        return None


def output_md5s(workspace: Path) -> dict[str, str]:
    """Path -> DVC's md5 of every output that dvc.lock records."""
    lock = workspace / "dvc.lock"
    if not lock.is_file():
        return {}
    stages: dict[str, Any] = (yaml.safe_load(lock.read_text()) or {}).get("stages", {})
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}
