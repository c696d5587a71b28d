"""Step: compress every matrix of one block at each of its levels, from statistics of the dense model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pruning_core.compress.block import ungrouped
from pruning_core.patterns import PATTERNS
from pruning_core.search.level_store import compress_levels
from pruning_core.settings.method import build_method
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.hidden_states import decoder_of, exclusive
from tasks.steps.prune_block import method_modules
from tasks.steps.running import OnDevice
from tasks.steps.statistics import load_statistics
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json

WEIGHTS = "levels.safetensors"
FACTS = "levels.json"


@dataclass(frozen=True, kw_only=True)
class LevelsParams(OnDevice):
    """One block at all of its levels.

    Args:
        block: its index.
        method: as in a recipe.
        unit: zeros of a matrix, or the n of n:m patterns.
        shares: matrix -> value of each level.
    """

    block: int
    method: dict[str, Any]
    unit: str
    shares: dict[str, list[int]]


def levels_modules(params: LevelsParams) -> list[str]:
    """The modules of the method, and of the pattern that a matrix gets which stays dense."""
    return [*method_modules(params.method, params.device), PATTERNS.module("unstructured")]


@step("levels", modules=levels_modules)
def levels(params: LevelsParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Compress the matrices of one block at each of their levels.

    inputs: source; statistics of the block, where the method or the errors of the levels need them.
    writes: levels.safetensors and levels.json (`pruning_core.search.level_store.BlockLevels`).
    """
    running, index = params.running, params.block
    method = build_method(params.method, device=running.torch_device)
    with exclusive:
        decoder = decoder_of(inputs["source"], params.trust_remote_code, running)
        decoder.load_block(index)
        stored = inputs.get("statistics")
        statistics = load_statistics(stored, running.torch_device) if stored else ungrouped(decoder, index)
        shown = progress(f"levels of block {index}")
        compressed = compress_levels(decoder, index, statistics, method, params.unit, params.shares, shown)
        decoder.drop_block(index)
    save_file(compressed.tensors, out / WEIGHTS)
    write_json(out / FACTS, compressed.matrices)
    forms = sorted({matrix["form"] for matrix in compressed.matrices})
    return {"forms": forms, "levels": sum(len(row) for row in params.shares.values()), "ledger": compressed.ledger}


def measured_levels(blocks: Sequence[Artifact]) -> list[dict[str, Any]]:
    """The measured errors of the levels of every matrix, in the model's order."""
    return [matrix for block in blocks for matrix in json.loads((block.path / FACTS).read_text())]
