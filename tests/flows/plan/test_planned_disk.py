"""The planned disk against the bytes of real artifacts."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from pruning_core.checkpoint.model_files import read_config
from pruning_core.plan.disk import disk_of
from pruning_core.plan.estimate import Planner
from tasks.engine.step import Context
from tasks.pipeline.variant import Pipeline
from tasks.store.store import Store
from tasks.workspace.workspace import Workspace

SWEEP = {"name": "sweep", "block": 8}
SPARSEGPT = {
    "saliency": {"name": "obs"},
    "pattern": {"name": "unstructured"},
    "sparsity": 0.5,
    "compensation": SWEEP,
}
VARIANTS = {
    "sparsegpt": SPARSEGPT,
    "shared": SPARSEGPT | {"propagate": "dense"},
    "gptq": {"compensation": SWEEP, "quantizer": {"name": "affine", "bits": 4, "group_size": 8}},
    "magnitude": {
        "saliency": {"name": "magnitude"},
        "pattern": {"name": "unstructured", "scope": "row"},
        "sparsity": 0.5,
    },
}
VARIANTS["owl"] = SPARSEGPT | {"allocation": {"name": "owl"}}
VARIANTS["knapsack"] = SPARSEGPT | {"allocation": {"name": "knapsack", "errors": "output", "levels": 8}}
VARIANTS["masked"] = VARIANTS["magnitude"] | {"allocation": {"name": "knapsack"}}
MODELS = ("variant", "structured_prune", "recovered")
"""The kinds of artifacts that hold a model directory."""
COLUMN = {"importance": {"name": "column"}, "ratio": 0.2, "of": "blocks", "multiple": 4}
SHORT = {"steps": 2, "batch": 2, "warmup": 0, "data": {"sequences": 8, "validation": 2}}
SMALLER = {
    "structured": {"structured": COLUMN},
    "refitted": {"structured": COLUMN | {"reconstruction": {"form": "static"}}},
    "lora": {"structured": COLUMN, "recovery": {"name": "lora"} | SHORT},
    "finetuned": VARIANTS["magnitude"] | {"recovery": {"name": "sparse_finetune"} | SHORT},
    "rounds": {"recovery": {"name": "iterative_magnitude", "sparsity": 0.5, "rounds": 2} | SHORT},
}
"""Structured and recovered variants."""


def planned_and_written(root: Path, variant: str, spec: dict[str, Any]) -> tuple[Planner, Workspace, Counter]:
    """Make a variant; the planner and the workspace, and kind of artifact -> bytes of tensors written."""
    workspace = Workspace.open(root, [f"variants={json.dumps({variant: spec})}"])
    store = Store(workspace.hidden)
    Pipeline(Context(store, workspace.root), workspace.settings).model(variant)
    written: Counter = Counter()
    for artifact in store.artifacts():
        for file in artifact.path.glob("*.safetensors"):
            written[artifact.kind] += sum(tensor.nbytes for tensor in load_file(file).values())
    return Planner(read_config(root / "tiny"), workspace.settings, stored=4.0), workspace, written


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_disk_is_what_is_written(workspace_root: Path, variant: str):
    planner, workspace, written = planned_and_written(workspace_root, variant, VARIANTS[variant])
    recipe = workspace.settings.recipe(variant)
    disk = planner.plan(recipe).disk
    assert disk.blocks == written["prune_block"]
    assert disk.variant == disk.copies == written["variant"]
    assert disk.statistics == written["statistics"]
    # How many levels a small matrix has is rounded, and what they keep is known on average.
    assert disk.levels == pytest.approx(written["levels"], rel=0.15)
    hidden = 8 * 16 * 16 * 4 if recipe.calibrates else 0
    assert disk.states == 2 * hidden
    assert disk_of(planner.model, recipe, 8, 4.0, 4, "mapped", 0).states == 3 * hidden


@pytest.mark.parametrize("variant", SMALLER)
def test_the_disk_of_structured_and_recovered_variants_is_what_is_written(workspace_root: Path, variant: str):
    planner, workspace, written = planned_and_written(workspace_root, variant, SMALLER[variant])
    disk = planner.plan(workspace.settings.recipe(variant)).disk
    models = [written[kind] for kind in MODELS if written[kind]]
    recovered = "recovery" in SMALLER[variant]
    assert disk.variant == disk.copies == models[-1]
    assert disk.compressed == (models[0] if len(models) == 2 else 0)
    assert len(models) == 1 + (recovered and variant != "rounds") and bool(written["recovered"]) == recovered
    assert disk.blocks == written["prune_block"] and not disk.states
    assert (disk.checkpoints > 0) == recovered
