"""Step: the statistics of one block of the dense model, which every variant can share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pruning_core.calibration.collect import collect
from pruning_core.calibration.expert_statistics import PooledStatistics
from pruning_core.calibration.staged_forward import InputGroup
from pruning_core.calibration.statistics import LayerStatistics
from tasks.engine.step import Context, step
from tasks.parallel.process_group import together
from tasks.progress import progress
from tasks.steps.hidden_states import DENSE, chain_of, exclusive, keep_states, take_states
from tasks.steps.running import Forwards
from tasks.store.artifact import Artifact


@dataclass(frozen=True, kw_only=True)
class StatisticsParams(Forwards):
    """`block` is an index."""

    block: int


@step("statistics", unkeyed=("states",))
def statistics(params: StatisticsParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """Hessians of a block of the dense model on dense inputs.

    inputs: source, tokens.
    writes: statistics.safetensors {"0": [in, in] float32 sum of x x^T of group 0, ...}; facts name the groups, and of
        those on all tokens of a layer how many were routed to each matrix.
    """
    index = params.block
    chain = chain_of(params, inputs, (None,) * index)
    with exclusive, together("tasks.steps.statistics", "statistics", params, inputs, context):
        states = take_states(context, chain)
        decoder = chain.decoder()
        decoder.load_block(index)
        more = index + 1 < len(decoder)
        shown = progress(f"statistics of block {index}")
        collected = collect(decoder, index, states, advance=more, shards=chain.shards, progress=shown)
        decoder.drop_block(index)
        keep_states(context, chain, DENSE, states)
    save_file(
        {str(number): layer_statistics.moment.cpu() for number, (_, layer_statistics) in enumerate(collected)},
        out / "statistics.safetensors",
    )
    return {"groups": [_facts(group, layer_statistics) for group, layer_statistics in collected]}


def _facts(group: InputGroup, layer_statistics: LayerStatistics) -> dict[str, Any]:
    facts = {"names": list(group.names), "tokens": layer_statistics.tokens, "sequences": layer_statistics.sequences}
    return facts | ({"routed": layer_statistics.routed} if isinstance(layer_statistics, PooledStatistics) else {})


def load_statistics(artifact: Artifact, device: torch.device) -> list[tuple[InputGroup, LayerStatistics]]:
    """The input groups of a block with what is known of their inputs, on the device."""
    moments = load_file(artifact.path / "statistics.safetensors", device=str(device))
    loaded = []
    for number, group in enumerate(artifact.facts["groups"]):
        moment = moments[str(number)]
        fields = (len(moment), True, group["tokens"], group["sequences"], moment)
        layer_statistics = PooledStatistics(*fields, group["routed"]) if "routed" in group else LayerStatistics(*fields)
        loaded.append((InputGroup(tuple(group["names"])), layer_statistics))
    return loaded
