"""MLflow: the run of a comparison, which shows the report; the same variants never give a second one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.records.comparison import comparable
from tasks.records.variant import Variant
from tasks.report.summary import summary
from tasks.store.canonical_json import digest_of
from tasks.tracking.runs import TrackedRun
from tasks.tracking.track_once import track_once

KIND, COMPARISON = "kind", "comparison"


def track_comparison(workspace: Path, page: Path, variants: Iterable[Variant]) -> TrackedRun:
    """Make the run of a comparison, or find it: there is one for the same page of the same variants' runs.

    What the page says of them is compared without the time that steps took: where it is what the run shows, nothing is
    written; otherwise the page there is replaced. Other variants are another comparison, and that of before stays.

    Args:
        page: the report, written.
        variants: those that it was written from, each with its `run_id`.

    Raises:
        InputError: variants that no report can be written from.
    """
    variants = list(variants)
    runs = {variant.name: variant.run_id for variant in variants}
    identity = {KIND: COMPARISON, "page": page.name, "runs.digest": digest_of(runs)}
    shown = [{key: value for key, value in variant.as_json().items() if key != "steps"} for variant in variants]
    content = digest_of(shown)
    tags = {"mlflow.source.name": f"espalier {'compare' if page.stem == COMPARISON else page.stem}"}
    # One tag each: a tag of all of them would be too long for MLflow where there are many.
    tags |= {f"run.{name}": run_id for name, run_id in runs.items()}

    def write(client: Any, run_id: str) -> None:
        client.log_artifact(run_id, str(page))
        where = f"The report is `{page.name}` under Artifacts. Compared: {', '.join(runs)}."
        note = f"{summary(comparable(variants))}\n\n{where}"
        client.set_tag(run_id, "mlflow.note.content", note[:7900])

    return track_once(workspace, page.stem, identity, content, page.name, tags, write)
