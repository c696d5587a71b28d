"""Step: compress one block of one variant; a killed run resumes at the block."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pruning_core.checkpoint.bit_masks import pack_mask
from pruning_core.checkpoint.file_names import CODES
from pruning_core.column_sweep.kernels import KERNELS
from pruning_core.compress.block import BlockOutcome, compress_block, compress_block_from, ungrouped
from pruning_core.compress.shares import Shares
from pruning_core.errors import ComputationError, InputError
from pruning_core.model.decoder import Decoder
from pruning_core.patterns import PATTERNS
from pruning_core.settings.method import build_method
from tasks.engine.step import Context, step
from tasks.parallel.process_group import together
from tasks.progress import progress
from tasks.steps.hidden_states import Chain, chain_of, decoder_of, exclusive, keep_states, take_states
from tasks.steps.running import Forwards
from tasks.steps.statistics import load_statistics
from tasks.store.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class PruneBlockParams(Forwards):
    """One block of one variant.

    Args:
        block: its index.
        method: as in a recipe.
        propagate: as in a recipe; None where the method needs no calibration.
        shares: of the block's matrices, where they do not all get what the method says.
    """

    block: int
    method: dict[str, Any]
    propagate: str | None
    shares: dict[str, Any] | None = None


def method_modules(method: dict[str, Any], device: str) -> list[str]:
    """The modules of a method and of the kernels that it may choose."""
    kernels = [f"pruning_core.column_sweep.{kernel}_kernel" for kernel in KERNELS]
    return [*build_method(method, device=torch.device(device)).modules(), *kernels]


def _modules(params: PruneBlockParams) -> list[str]:
    # What a matrix of an N:M method becomes that shares leave dense.
    dense = [PATTERNS.module("unstructured")] if params.shares else []
    return [*method_modules(params.method, params.device), *dense]


@step("prune_block", modules=_modules, unkeyed=("states",))
def prune_block(params: PruneBlockParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Compress the matrices of one block.

    inputs: source; statistics (propagate dense); tokens and, from block 1 on, previous (other propagations).
    writes: weights.safetensors (stored names, checkpoint dtype), keep.safetensors (bit masks, see `pack_mask`), and
        quantized.safetensors where a quantizer took part (`pruning_core.compress.block.BlockOutcome.quantized`).
    """
    running = params.running
    method = build_method(params.method, device=running.torch_device)
    index = params.block
    with exclusive:
        if "tokens" in inputs:
            outcome = _on_states(params, inputs, context, method)
        else:
            decoder = _decoder(inputs["source"], params)
            decoder.load_block(index)
            stored = inputs.get("statistics")
            statistics = load_statistics(stored, running.torch_device) if stored else ungrouped(decoder, index)
            outcome = compress_block_from(decoder, index, statistics, method, shares_in(params))
            decoder.drop_block(index)
    return _write(outcome, out)


def _on_states(params: PruneBlockParams, inputs: dict[str, Artifact], context: Context, method: Any) -> BlockOutcome:
    index = params.block
    chain = chain_before(params, inputs, context)
    with together("tasks.steps.prune_block", "prune_block", params, inputs, context):
        decoder = _decoder(chain.source, params)
        states = take_states(context, chain)
        decoder.load_block(index)
        shown = progress(f"block {index}")
        more = index + 1 < len(decoder)
        options = {"shares": shares_in(params), "shards": chain.shards, "advance": more}
        outcome = compress_block(decoder, index, states, method, params.propagate, shown, **options)
        chain.shards.check_alike(outcome.weights)
        decoder.drop_block(index)
        keep_states(context, chain, context.key, states)
    return outcome


def shares_in(params: PruneBlockParams) -> Shares | None:
    """How much of each matrix goes, where the params of a step say so."""
    return Shares.of_facts(params.shares) if params.shares else None


def _decoder(source: Artifact, params: PruneBlockParams) -> Decoder:
    decoder = decoder_of(source, params.trust_remote_code, params.running)
    if "few_tokens" in params.method and not decoder.has_experts:
        raise InputError("few_tokens changes nothing for a model without experts; remove it")
    return decoder


def chain_before(params: PruneBlockParams, inputs: dict[str, Artifact], context: Context) -> Chain:
    """The chain of compressed blocks that ends before this one, read from the manifests of its links."""
    blocks: list[Artifact] = []
    previous = inputs.get("previous")
    while previous is not None:
        blocks.insert(0, previous)
        earlier = previous.manifest["inputs"].get("previous")
        previous = context.store.find(earlier["key"]) if earlier else None
    if len(blocks) != params.block:
        raise ComputationError(f"block {params.block} follows {len(blocks)} stored blocks; run the variant again")
    return chain_of(params, inputs, tuple(blocks))


def _write(outcome: BlockOutcome, out: Path) -> dict[str, Any]:
    save_file(outcome.weights, out / "weights.safetensors")
    if outcome.quantized:
        save_file(outcome.quantized, out / CODES)
    save_file({name: pack_mask(keep) for name, keep in outcome.keep.items()}, out / "keep.safetensors")
    return {"layers": [layer.facts() for layer in outcome.layers], "ledger": outcome.ledger}
