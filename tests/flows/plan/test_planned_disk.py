"""The planned disk against the bytes of real artifacts."""

import json
from collections import Counter
from pathlib import Path

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


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_disk_is_what_is_written(workspace_root: Path, variant):
    spec = json.dumps(VARIANTS[variant])
    workspace = Workspace.open(workspace_root, [f"variants={{{variant}: {spec}}}"])
    store = Store(workspace.hidden)
    Pipeline(Context(store, workspace.root), workspace.settings).model(variant)
    written: Counter = Counter()
    for artifact in store.artifacts():
        for file in artifact.path.glob("*.safetensors"):
            written[artifact.kind] += sum(tensor.nbytes for tensor in load_file(file).values())
    config = read_config(workspace_root / "tiny")
    planner = Planner(config, workspace.settings, stored=4.0)
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
