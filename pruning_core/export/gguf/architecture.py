"""Models that a GGUF file can hold here: their keys, names and the order of rows that llama.cpp's rotation wants."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PretrainedConfig

from pruning_core.errors import InputError
from pruning_core.export.packing.stored_grids import DENSE_FORMATS
from pruning_core.model.context_length import context_length
from pruning_core.model.widths import structure_of

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""model_type of config.json -> architecture of llama.cpp."""
MIXED = "deci"
"""The one whose blocks may differ in width. It rotates as `llama` does, takes the biases of `qwen2`, and knows no norms
of queries and keys."""
MIXABLE = ("llama", "mistral", "qwen2")
"""Values of model_type that it computes."""
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INSIDE = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
ROPE_FREQUENCIES = "rope_freqs.weight"


def check_architecture(config: PretrainedConfig) -> str:
    """The architecture of llama.cpp that computes what `config` says.

    Raises:
        InputError: there is none.
    """
    if config.model_type not in ARCHITECTURES:
        fault = f"model_type {config.model_type!r} is none of {', '.join(ARCHITECTURES)}"
    elif structure_of(config) is not None and config.model_type not in MIXABLE:
        fault = (
            f"the blocks differ in width, and of {config.model_type} llama.cpp has none that do (mode uniform of a "
            "structured recipe gives all the same)"
        )
    elif config.hidden_act != "silu":
        fault = f"the activation is {config.hidden_act!r}, not silu"
    elif _rope(config)["rope_type"] not in ("default", "llama3"):
        fault = f"the rotary positions are of type {_rope(config)['rope_type']!r}, not default or llama3"
    else:
        return ARCHITECTURES[config.model_type] if structure_of(config) is None else MIXED
    raise InputError(f"--format gguf cannot express this model: {fault}; use {DENSE_FORMATS}")


def gguf_name(name: str) -> str:
    """What llama.cpp calls a tensor of the checkpoint; InputError where it has no such tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    if not match or match[2] not in INSIDE:
        raise InputError(f"--format gguf has no name for the tensor {name}; use {DENSE_FORMATS}")
    return f"blk.{match[1]}.{INSIDE[match[2]]}.{kind}"


def checkpoint_name(name: str) -> str:
    """The inverse of `gguf_name`; InputError for a name that it never gives."""
    stem, _, kind = name.rpartition(".")
    match = re.fullmatch(r"blk\.(\d+)\.(.+)", stem)
    outside = {own: theirs for theirs, own in OUTSIDE.items()}
    inside = {own: theirs for theirs, own in INSIDE.items()}
    if stem in outside:
        return f"{outside[stem]}.{kind}"
    if not match or match[2] not in inside:
        raise InputError(f"the GGUF tensor {name} is none that this reader knows")
    return f"model.layers.{match[1]}.{inside[match[2]]}.{kind}"


def row_order(
    architecture: str, name: str, rows: int, heads: int | Sequence[int], key_value_heads: int | Sequence[int]
) -> np.ndarray | None:
    """[rows] int64: for each row of the GGUF tensor the row of the checkpoint's; None where they are the same.

    The rotation of llama.cpp's `llama` turns neighbouring rows of a head, that of transformers row i and i + half.

    Args:
        heads, key_value_heads: of every block, or of each.
    """
    match = re.match(r"blk\.(\d+)\.attn_([qk])\.", name)
    if architecture not in ("llama", MIXED) or not match:
        return None
    counts = heads if match[2] == "q" else key_value_heads
    count = counts if isinstance(counts, int) else counts[int(match[1])]
    return np.arange(rows).reshape(count, 2, -1).swapaxes(1, 2).reshape(-1)


def architecture_keys(config: PretrainedConfig) -> dict[str, Any]:
    """Key without the architecture's prefix -> int or float, or list of int: one per block, where blocks differ."""
    # Of a model whose blocks differ these are the unpruned one's, from which the width of a head follows.
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    # llama.cpp's `llama` knows no sliding window: within one window both compute the same.
    window = getattr(config, "sliding_window", None)
    return {
        "vocab_size": config.vocab_size,
        "context_length": min(filter(None, (context_length(config), window))),
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        **_widths(config),
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": width,
        "rope.freq_base": float(_rope(config)["rope_theta"]),
    }


def _widths(config: PretrainedConfig) -> dict[str, int | list[int]]:
    widths = {
        "feed_forward_length": ("channels", config.intermediate_size),
        "attention.head_count": ("heads", config.num_attention_heads),
        "attention.head_count_kv": ("key_value_heads", config.num_key_value_heads),
    }
    structure = structure_of(config)
    if structure is None:
        return {key: width for key, (_, width) in widths.items()}
    return {
        key: [getattr(block, field) or width for block in structure.blocks] for key, (field, width) in widths.items()
    }


def rope_factors(config: PretrainedConfig) -> np.ndarray | None:
    """[width / 2] float32 that llama.cpp divides the rotary frequencies by; None where they are the plain ones."""
    if _rope(config)["rope_type"] == "default":
        return None
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    stretched, _ = ROPE_INIT_FUNCTIONS[_rope(config)["rope_type"]](config, "cpu")
    width = 2 * len(stretched)
    plain = float(_rope(config)["rope_theta"]) ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    factors: np.ndarray = (plain / stretched.double().numpy()).astype(np.float32)
    return factors


def _rope(config: PretrainedConfig) -> dict[str, Any]:
    parameters = getattr(config, "rope_parameters", None) or {}
    return {"rope_type": "default", "rope_theta": 10000.0, **parameters}
