"""Surgery: a checkpoint is sliced to a model directory whose matrices are smaller."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruning_core.checkpoint.sharded_writer import ShardedWriter
from pruning_core.errors import ComputationError
from pruning_core.model.coupled_groups import Site
from pruning_core.model.decoder import Decoder
from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.config_changes import changed_settings, write_config
from pruning_core.structured.kept_groups import KeptGroups


@dataclass
class Replacements:
    """What surgery writes in the place of the checkpoint's slices.

    Args:
        parameters: full name -> tensor, sliced already; any float dtype.
        new_biases: families whose consumers had no bias and now get one.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict, repr=False)
    new_biases: tuple[str, ...] = ()


def stored_parameters(decoder: Decoder) -> tuple[int, int]:
    """(stored numbers of the whole model, of those in the blocks)."""
    checkpoint = decoder.checkpoint
    inside = {
        decoder.stored_name(name) for name in decoder.model.state_dict() if name.startswith(f"{decoder.block_prefix}.")
    }
    sizes = {name: torch.Size(checkpoint.shape(name)).numel() for name in checkpoint.names()}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name in inside)


def kept_slices(site: Site, plan: KeptGroups) -> dict[str, tuple[int, Tensor]]:
    """Parameter -> (axis, positions that stay, ascending)."""
    kept = {}
    for name, (axis, gone) in site.slices(plan.removed(site)).items():
        stays = torch.ones(site.sizes[name][axis], dtype=torch.bool)
        stays[gone] = False
        kept[name] = (axis, stays.nonzero().flatten())
    return kept


def mask_groups(block: nn.Module, prefix: str, site: Site, groups: Sequence[int]) -> None:
    """Set what groups own to zero, in place: the block then computes what the sliced one will."""
    for name, (axis, gone) in site.slices(groups).items():
        parameter = block.get_parameter(name.removeprefix(f"{prefix}."))
        with torch.no_grad():
            parameter.index_fill_(axis, gone.to(parameter.device), 0.0)


def write_pruned(
    decoder: Decoder,
    sites: Sequence[Site],
    plan: KeptGroups,
    out: Path,
    replacements: Replacements | None = None,
    progress: Progress = ignore_progress,
) -> dict[str, Any]:
    """Write config.json and the weights of the model that a plan leaves, one tensor at a time.

    Args:
        decoder: the model before; its blocks may be on disk.
        sites: all that the plan speaks of.
        out: a directory without weights.

    Returns:
        {parameters, zeros} of what was written.

    Raises:
        InputError: the plan is of another model, or the architecture's config cannot express it.
        ComputationError: the number of parameters is not the plan's.
    """
    replacements = replacements or Replacements()
    cuts = {name: cut for site in sites for name, cut in kept_slices(site, plan).items()}
    shapes = {name: shape for site in sites for name, shape in site.sizes.items()}
    for name, (axis, stays) in cuts.items():
        shapes[name] = torch.Size([*shapes[name][:axis], len(stays), *shapes[name][axis + 1 :]])
    added = _added_biases(decoder, sites, shapes, replacements)
    shapes |= {name: value.shape for name, value in added.items()}
    out.mkdir(parents=True, exist_ok=True)
    config = decoder.model.config
    changes = changed_settings(config, sites, plan, replacements.new_biases)
    write_config(decoder.checkpoint.directory, out, changes, shapes)
    written = _write_weights(decoder, cuts, added, replacements, out, progress)
    expected = plan.after + sum(value.numel() for value in added.values())
    if written["parameters"] != expected:
        raise ComputationError(f"surgery left {written['parameters']} parameters where the plan says {expected}")
    return written


def _write_weights(
    decoder: Decoder,
    cuts: dict[str, tuple[int, Tensor]],
    added: dict[str, Tensor],
    replacements: Replacements,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    checkpoint = decoder.checkpoint
    changed = {decoder.stored_name(name): name for name in {*cuts, *replacements.parameters} - added.keys()}
    parameters = zeros = 0
    with ShardedWriter(out) as writer:
        for done, stored in enumerate(checkpoint.names(), start=1):
            name = changed.get(stored)
            if name in replacements.parameters:
                tensor = replacements.parameters[name].to(checkpoint.dtype(stored))
            elif name in cuts:
                axis, stays = cuts[name]
                tensor = checkpoint.load(stored).index_select(axis, stays)
            else:
                tensor = checkpoint.load(stored)
            writer.add(stored, tensor)
            parameters += tensor.numel()
            zeros += tensor.numel() - int(tensor.count_nonzero())
            progress(done, len(checkpoint.names()))
        for name, value in added.items():
            stored = decoder.stored_name(f"{name.removesuffix('bias')}weight")
            writer.add(f"{stored.removesuffix('weight')}bias", value.to(checkpoint.dtype(stored)))
            parameters += value.numel()
            zeros += value.numel() - int(value.count_nonzero())
    return {"parameters": parameters, "zeros": zeros}


def _added_biases(
    decoder: Decoder, sites: Sequence[Site], shapes: dict[str, torch.Size], replacements: Replacements
) -> dict[str, Tensor]:
    """The biases that a config with biases asks for: those given, and zeros for the producers beside them."""
    added = {}
    present = decoder.model.state_dict().keys()
    for site in sites:
        if site.family not in replacements.new_biases:
            continue
        # The config gives keys and values a bias too, also where only queries are grouped.
        module = site.consumer.matrix.rpartition(".")[0]
        prefix = f"{decoder.block_prefix}.{site.block}."
        for matrix, linear in decoder.linears(site.block).items():
            name = f"{matrix}.bias"
            if matrix.rpartition(".")[0] == module and name not in present and matrix.startswith(prefix):
                rows = shapes.get(f"{matrix}.weight", linear.get_parameter("weight").shape)[0]
                added[name] = replacements.parameters.get(name, torch.zeros(rows))
    return added
