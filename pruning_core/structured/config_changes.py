"""The config.json of a smaller model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import PretrainedConfig

from pruning_core.checkpoint.model_files import first_line, read_config
from pruning_core.errors import InputError
from pruning_core.model.coupled_groups import Site
from pruning_core.model.narrowed import from_config
from pruning_core.model.widths import KEY, narrowed, structure_of
from pruning_core.structured.kept_groups import KeptGroups

CHANNELS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads")
BIASES = {"mlp": "mlp_bias", "attention": "attention_bias", "query": "attention_bias"}
"""The key that gives the consumers of a family biases, and all other matrices of its module with them."""


def changed_settings(
    config: PretrainedConfig, sites: Sequence[Site], plan: KeptGroups, biases: Sequence[str] = ()
) -> dict[str, Any]:
    """The keys of config.json that a plan changes, by the names they have there.

    Args:
        biases: families whose consumers get a bias that they did not have.

    Raises:
        InputError: the architecture's config cannot express it.
    """
    changes: dict[str, Any] = {}
    if plan.mode == "heterogeneous":
        changes[KEY] = narrowed(config, sites, plan.kept).facts()
    else:
        if structure_of(config) is not None:
            raise InputError("the blocks of this model have different widths; prune it in mode heterogeneous")
        for site in sites:
            for key, value in _widths(config, site, len(plan.kept[site.name])).items():
                if changes.setdefault(key, value) != value:
                    raise InputError(
                        f"mode uniform needs one {key} for all blocks; the plan has {value} for {site.name}"
                    )
    for family in biases:
        if not isinstance(getattr(config, BIASES[family], None), bool):
            raise InputError(
                f"a {config.model_type} has no {BIASES[family]}: what reads its {family} groups holds no bias, so the "
                "lost mean cannot be given back by one; choose least squares instead"
            )
        changes[BIASES[family]] = True
    return {config.attribute_map.get(key, key): value for key, value in changes.items()}


def _widths(config: PretrainedConfig, site: Site, kept: int) -> dict[str, int]:
    if site.family == "mlp":
        key = next((key for key in CHANNELS if hasattr(config, key)), None)
        if key is None:
            raise InputError(
                f"the config of a {config.model_type} has no width for its channels; choose mode heterogeneous"
            )
        return {key: kept}
    if kept == site.groups:
        return {}
    heads = site.attention_heads
    query = kept if site.family == "query" else kept * heads.per_group
    key_value = heads.key_value if site.family == "query" else kept
    keys = {name: key_value for name in KEY_VALUE_HEADS if hasattr(config, name)}
    return {"num_attention_heads": query, "head_dim": heads.width, **keys}


def write_config(source: Path, out: Path, changes: dict[str, Any], expected: dict[str, torch.Size]) -> None:
    """Write config.json with its changes, once it is known to give matrices of the sizes that are written.

    Args:
        source: directory of the model before.
        out: directory of the model after.
        expected: parameter -> shape.

    Raises:
        InputError: transformers builds something else of it, or nothing.
    """
    settings = json.loads((source / "config.json").read_text(encoding="utf-8"))
    settings |= changes
    (out / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    kind = settings.get("model_type")
    advice = "choose mode heterogeneous, or families: [mlp]"
    try:
        config = read_config(out)
        with init_empty_weights(include_buffers=False):
            model = from_config(config, torch.float32)
    except (InputError, ValueError, RuntimeError) as error:
        raise InputError(f"a {kind} cannot express this plan ({first_line(error)}); {advice}") from error
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, shape in expected.items():
        if shapes.get(name) != shape:
            raise InputError(
                f"the config of a {kind} cannot express this plan: it gives {name} the shape "
                f"{list(shapes.get(name, []))} where {list(shape)} is needed; {advice}"
            )
