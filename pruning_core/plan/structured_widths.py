"""Widths that a structured variant will have, before any score is known."""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PretrainedConfig

from pruning_core.model.coupled_groups import Site, sites_of
from pruning_core.model.decoder import matrix
from pruning_core.model.skeleton import Skeleton
from pruning_core.model.widths import KEY, narrowed
from pruning_core.settings.structured import Structured
from pruning_core.structured.config_changes import BIASES, changed_settings
from pruning_core.structured.scores import Scores


@dataclass(frozen=True)
class Consumer:
    """A matrix that reads groups."""

    block: int
    rows: int
    columns: int
    kept: int
    """Columns that stay."""
    largest: int
    """Entries of the largest matrix that writes or reads these groups."""
    groups: int
    mlp: bool
    """Whether of an MLP; otherwise of an attention."""


@dataclass(frozen=True)
class NarrowedModel:
    """A model that structured pruning makes."""

    config: PretrainedConfig = field(repr=False)
    skeleton: Skeleton = field(repr=False)
    """Of the model before."""
    sites: tuple[Site, ...] = field(repr=False)
    consumers: tuple[Consumer, ...]


def narrowed_model(
    config: PretrainedConfig, structured: Structured, dtype: torch.dtype, trust: bool = False
) -> NarrowedModel:
    """The model that is left where the scores are spread alike over all blocks and families.

    Ratio, families and rounding decide how much goes of the whole, and scores only where; local rankings and mode
    uniform are told exactly.

    Args:
        dtype: in which the model runs before.

    Raises:
        InputError: the ratio, the families or the mode do not fit the model.
    """
    skeleton = Skeleton(config, dtype, trust)
    sites = tuple(sites_of(skeleton.blocks, skeleton.block_prefix, structured.families))
    # The same distribution of scores per parameter everywhere.
    spread = {site.name: site.group_size * (1 + torch.arange(site.groups).double()) / site.groups for site in sites}
    inside = sum(parameter.numel() for parameter in skeleton.blocks.parameters())
    plan = structured.ranking.plan(sites, Scores(spread), skeleton.parameters, inside)
    bias = structured.reconstruction is not None and structured.reconstruction.form == "bias"
    new_biases = _without_bias(skeleton, sites) if bias else ()
    changes = changed_settings(config, sites, plan, new_biases)
    # The one form that says the widths of every architecture, whatever the mode writes.
    changes |= {KEY: narrowed(config, sites, plan.kept).facts()}
    after = copy.deepcopy(config)
    for key in (KEY, *(BIASES[family] for family in new_biases)):
        setattr(after, key, changes[key])
    consumers = tuple(_consumer(skeleton, site, len(plan.kept[site.name])) for site in sites)
    return NarrowedModel(after, skeleton, sites, consumers)


def _without_bias(skeleton: Skeleton, sites: tuple[Site, ...]) -> tuple[str, ...]:
    bare = [site.family for site in sites if _reader(skeleton, site).bias is None]
    return tuple(dict.fromkeys(bare))


def _reader(skeleton: Skeleton, site: Site) -> nn.Module:
    reader: nn.Module = skeleton.model.get_submodule(site.consumer.matrix)
    return reader


def _consumer(skeleton: Skeleton, site: Site, kept: int) -> Consumer:
    linear = _reader(skeleton, site)
    rows, columns = matrix(linear).shape
    largest = max(shape.numel() for shape in site.sizes.values())
    each = site.consumer.index.shape[1]
    return Consumer(site.block, rows, columns, kept * each, largest, site.groups, site.family == "mlp")
