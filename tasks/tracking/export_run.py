"""MLflow: the run of an export, child of its variant's run, which tells its size, with the model card as its page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.records.exports import EXPORT, export_size
from tasks.store.canonical_json import digest_of, plain
from tasks.tracking.comparison_run import KIND
from tasks.tracking.run_contents import export_metrics
from tasks.tracking.runs import TrackedRun, find_runs
from tasks.tracking.track_once import track_once


def track_export(workspace: Path, record: Mapping[str, Any], card: Path) -> TrackedRun:
    """Make the run of an export, or find it.

    Args:
        record: as `tasks.pipeline.export.export_record` makes it.
        card: the model card, written.
    """
    label = f"{record['variant']} as {record['facts']['format']['name']}"
    identity = {KIND: EXPORT, "export_key": record["export"]["key"], "evaluation_key": record["evaluation"]["key"]}
    parents = find_runs(workspace, {"variant_key": record["model"]["key"]})
    parent = parents[0]["run_id"] if parents else None
    tags = {
        "variant": record["variant"],
        "format": record["facts"]["format"]["name"],
        "speed_key": record["speed"]["key"],
        "artifact.digest": record["export"]["digest"],
        "parent.variant.digest": record["model"]["digest"],
        "mlflow.source.name": f"espalier export {record['variant']} --format {record['facts']['format']['name']}",
        **({"parent.variant.run_id": parent, "mlflow.parentRunId": parent} if parent else {}),
    }

    def write(client: Any, run_id: str) -> None:
        for name, value in _metrics(record).items():
            client.log_metric(run_id, name, float(f"{value:.6g}"))
        for name, value in export_metrics([export_size(record["facts"], record["model_facts"])]).items():
            if parent:
                client.log_metric(parent, name, value)
        client.log_artifact(run_id, str(card))
        client.set_tag(run_id, "mlflow.note.content", card.read_text(encoding="utf-8")[:7900])

    content = digest_of(plain({"record": dict(record)}))
    return track_once(workspace, label, identity, content, card.name, tags, write)


def _metrics(record: Mapping[str, Any]) -> dict[str, float]:
    quality = record["quality"]["export"]
    rows = [row for row in record["serving"]["rows"] if row["model"] == EXPORT and row["batch"] == 1]
    metrics = {
        "perplexity": quality["perplexity"],
        "loss_increase": quality["difference_to_dense"]["mean"],
        "kl_to_dense": quality["kl_to_dense"],
        "bits_per_weight": record["facts"]["bits_per_weight"],
        "size_mb": record["facts"]["file_bytes"] / 1e6,
        **(
            {"prefill_tok_s": rows[0]["prefill"]["median"], "decode_tok_s": rows[0]["decode"]["median"]} if rows else {}
        ),
    }
    return {name: value for name, value in metrics.items() if value is not None}
