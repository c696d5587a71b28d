"""The widths of a model whose blocks differ, as its config.json gives them under a key of its own.

    "espalier_structure": {"format": 1, "blocks": [{"channels": 300, "heads": 4, "key_value_heads": 2}, ...]}

The config's own widths stay those of the unpruned model, from which head widths follow; what cannot read the key finds
weights of another shape than it expects and refuses them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pydantic.dataclasses
from transformers import PretrainedConfig

from pruning_core.errors import InputError
from pruning_core.model.coupled_groups import Site
from pruning_core.registry import STRICT, validated

KEY = "espalier_structure"
FORMAT = 1


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class BlockWidths:
    """The widths of one block; None where the config's own width holds.

    alibi: which of the unpruned model's heads these are, for positions that each head weighs in its own way.
    """

    channels: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    alibi: list[int] | None = None


@dataclass(frozen=True)
class Structure:
    """The widths of all blocks."""

    blocks: tuple[BlockWidths, ...]

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        blocks = [{name: value for name, value in asdict(block).items() if value is not None} for block in self.blocks]
        return {"format": FORMAT, "blocks": blocks}


def structure_of(config: PretrainedConfig) -> Structure | None:
    """The widths of the blocks in a config; None where they are all alike.

    Raises:
        InputError: it says it in a form that is not known.
    """
    facts = getattr(config, KEY, None)
    if facts is None:
        return None
    depth = config.get_text_config().num_hidden_layers
    blocks = facts.get("blocks") if isinstance(facts, dict) else None
    if not isinstance(blocks, list) or facts.get("format") != FORMAT or len(blocks) != depth:
        raise InputError(f"{KEY} in config.json must have format {FORMAT} and the widths of {depth} blocks")
    fields = sorted(BlockWidths.__dataclass_fields__)
    widths = []
    for index, block in enumerate(blocks):
        if not isinstance(block, dict):
            raise InputError(f"{KEY}.blocks.{index} in config.json must be a mapping of widths, got {block!r}")
        widths.append(validated(partial(BlockWidths, **block), f"{KEY}.blocks.{index}", fields))
    return Structure(tuple(widths))


def narrowed(config: PretrainedConfig, sites: Sequence[Site], kept: dict[str, tuple[int, ...]]) -> Structure:
    """The structure that keeps `kept` (site name -> groups) of a model, which may be narrow already."""
    before = structure_of(config)
    blocks = list(before.blocks) if before else [BlockWidths()] * config.get_text_config().num_hidden_layers
    for site in sites:
        widths = asdict(blocks[site.block])
        groups = kept[site.name]
        if site.family == "mlp":
            widths["channels"] = len(groups)
        elif site.family == "attention":
            widths |= {"heads": len(groups) * site.attention_heads.per_group, "key_value_heads": len(groups)}
        else:
            widths |= {"heads": len(groups), "key_value_heads": site.attention_heads.key_value}
        if site.heads and weighs_positions_by_head(config):
            if config.model_type != "bloom":
                raise InputError(
                    f"the heads of a {config.model_type} with alibi cannot be removed; choose families: [mlp]"
                )
            present = widths["alibi"] or list(range(site.heads.query))
            widths["alibi"] = [present[group] for group in groups]
        blocks[site.block] = BlockWidths(**widths)
    return Structure(tuple(blocks))


def weighs_positions_by_head(config: PretrainedConfig) -> bool:
    """Whether the model adds to its attention scores a slope per head (ALiBi, arXiv:2108.12409)."""
    return bool(getattr(config, "alibi", config.model_type == "bloom"))
