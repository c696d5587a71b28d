"""Step: write the blocks of a variant as a model directory that any loader reads."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.file_names import CODES, MASKS
from pruning_core.checkpoint.layer_facts import counted, layers_in
from pruning_core.checkpoint.sharded_writer import ShardedWriter
from pruning_core.errors import ComputationError
from tasks.engine.step import Context, step
from tasks.steps.source_model import companion_files
from tasks.store.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class AssembleParams:
    """`recipe` is for people: what the blocks were made with."""

    recipe: dict[str, Any]


@step("variant")
def assemble(params: AssembleParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """The compressed model: plain safetensors with exact zeros, the source's config and tokenizer, and the masks.

    inputs: source, block-0 ... block-n; allocation where the recipe has one.
    writes: a Hugging Face directory; masks.safetensors (bit masks as `pruning_core.checkpoint.bit_masks.pack_mask` lays
        them out); where a quantizer took part quantized.safetensors.
    """
    source = Checkpoint(inputs["source"].path)
    count = sum(name.startswith("block-") for name in inputs)
    blocks = [inputs[f"block-{index}"] for index in range(count)]
    for file in companion_files(inputs["source"].path):
        shutil.copyfile(file, out / file.name)
    zeros = _write_weights(source, blocks, out)
    masks = {name: mask for block in blocks for name, mask in load_file(block.path / "keep.safetensors").items()}
    save_file(masks, out / MASKS)
    _write_codes(blocks, out)
    layers = [layer for block in blocks for layer in layers_in(block.facts)]
    ledger = [entry for block in blocks for entry in block.facts["ledger"]]
    facts = {"recipe": params.recipe, "ledger": ledger, **counted(layers, source, zeros)}
    if "allocation" in inputs:
        _check_allocation(inputs["allocation"].facts, facts)
        facts["allocation"] = inputs["allocation"].facts
    return facts


def _check_allocation(allocation: dict[str, Any], facts: dict[str, Any]) -> None:
    """Raise ComputationError where another number of weights is gone than was allocated."""
    removed = facts["parameters"]["removed"]
    if removed != allocation["removed"]:
        raise ComputationError(f"{removed} weights were removed where {allocation['removed']} were allocated")


def _write_codes(blocks: list[Artifact], out: Path) -> None:
    """The integers and grids of a quantized variant: its dense weights hold them rounded to the checkpoint's dtype."""
    files = [block.path / CODES for block in blocks]
    if files and files[0].is_file():
        save_file({name: value for file in files for name, value in load_file(file).items()}, out / CODES)


def _write_weights(source: Checkpoint, blocks: list[Artifact], out: Path) -> int:
    """Write every tensor of the source, compressed ones replaced; returns how many weights are zero in all."""
    # Names only: a block's tensors are in memory one block at a time.
    where = {name: block for block in blocks for name in Checkpoint(block.path, "weights.safetensors").names()}
    zeros = 0
    held: tuple[Artifact | None, dict[str, torch.Tensor]] = (None, {})
    with ShardedWriter(out) as writer:
        for name in source.names():
            if name in where:
                if held[0] is not where[name]:
                    held = (where[name], load_file(where[name].path / "weights.safetensors"))
                tensor = held[1][name]
                if tensor.shape != source.shape(name):
                    raise ComputationError(f"{name} changed its shape to {list(tensor.shape)}")
            else:
                tensor = source.load(name)
            zeros += tensor.numel() - int(tensor.count_nonzero())
            writer.add(name, tensor)
    return zeros
