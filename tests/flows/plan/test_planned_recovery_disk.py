"""The planned disk of structured and of recovered variants against the bytes of real artifacts."""

import json
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pruning_core.checkpoint.model_files import read_config
from pruning_core.plan.estimate import Planner
from tasks.engine.step import Context
from tasks.pipeline.variant import Pipeline
from tasks.store.store import Store
from tasks.workspace.workspace import Workspace

MODELS = ("variant", "structured_prune", "recovered")
"""The kinds of artifacts that hold a model directory."""
COLUMN = {"importance": {"name": "column"}, "ratio": 0.2, "of": "blocks", "multiple": 4}
MAGNITUDE = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.5}
SHORT = {"steps": 2, "batch": 2, "warmup": 0, "data": {"sequences": 8, "validation": 2}}
VARIANTS = {
    "structured": {"structured": COLUMN},
    "refitted": {"structured": COLUMN | {"reconstruction": {"form": "static"}}},
    "lora": {"structured": COLUMN, "recovery": {"name": "lora"} | SHORT},
    "finetuned": MAGNITUDE | {"recovery": {"name": "sparse_finetune"} | SHORT},
    "rounds": {"recovery": {"name": "iterative_magnitude", "sparsity": 0.5, "rounds": 2} | SHORT},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_disk_is_what_is_written(workspace_root: Path, variant: str):
    workspace = Workspace.open(workspace_root, [f"variants={json.dumps({variant: VARIANTS[variant]})}"])
    store = Store(workspace.hidden)
    Pipeline(Context(store, workspace.root), workspace.settings).model(variant)
    written: Counter = Counter()
    for artifact in store.artifacts():
        for file in artifact.path.glob("*.safetensors"):
            written[artifact.kind] += sum(tensor.nbytes for tensor in load_file(file).values())
    planner = Planner(read_config(workspace_root / "tiny"), workspace.settings, stored=4.0)
    disk = planner.plan(workspace.settings.recipe(variant)).disk
    models = [written[kind] for kind in MODELS if written[kind]]
    recovered = "recovery" in VARIANTS[variant]
    assert disk.variant == disk.copies == models[-1]
    assert disk.compressed == (models[0] if len(models) == 2 else 0)
    assert len(models) == 1 + (recovered and variant != "rounds") and bool(written["recovered"]) == recovered
    assert disk.blocks == written["prune_block"] and not disk.states
    assert (disk.checkpoints > 0) == recovered
