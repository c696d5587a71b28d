"""Small text files of an MLflow run: settings and lineage, for `espalier reproduce`, and the text samples."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from pruning_core.checkpoint.layer_facts import LayerFacts
from tasks.records.model_facts import Samples
from tasks.report.drawings import draw_layers, drawings

SETTINGS, LINEAGE = "settings.yaml", "lineage.json"
SAMPLES, SAMPLES_TAG = "samples.json", "samples.digest"


def files_of(provenance: dict[str, Any]) -> dict[str, str]:
    """File name -> text, of what `tasks.lineage.provenance.provenance` gives; {} where nothing is known."""
    if not provenance:
        return {}
    return {
        SETTINGS: yaml.safe_dump(provenance["settings"], sort_keys=False),
        LINEAGE: json.dumps(provenance["lineage"], indent=1) + "\n",
    }


def sample_files(samples: Samples | None) -> dict[str, str]:
    """File name -> text of a table as MLflow shows it, one row per prompt; {} where nothing was written."""
    if samples is None:
        return {}
    columns = ["prompt", "text_follows", "continuation", "tokens", "tokens_as_dense"]
    rows = [
        [prompt.text, prompt.follows, "".join(continuation.text), len(continuation.tokens), continuation.shared]
        for prompt, continuation in zip(samples.prompts, samples.continuations, strict=True)
    ]
    return {SAMPLES: json.dumps({"columns": columns, "data": rows}, indent=1) + "\n"}


def drawing_files(layers: tuple[LayerFacts, ...], artifacts: Iterable[Path]) -> dict[str, str]:
    """File name -> text of the drawings of a variant: its layers, and what there is to see in the files shown."""
    chart = draw_layers(layers)
    return drawings(artifacts) | ({"layers.svg": chart} if chart else {})


def sample_tags(samples: Samples | None) -> dict[str, str]:
    """What tells MLflow that a run has the table, and us which one it is."""
    if samples is None:
        return {}
    return {SAMPLES_TAG: samples.digest, "mlflow.loggedArtifacts": json.dumps([{"path": SAMPLES, "type": "table"}])}
