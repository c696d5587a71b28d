"""What is compared: the same settings in the words of each contestant, and the two models they run on."""

from dataclasses import dataclass, field
from typing import Any

BLOCK = 128
DAMPING = 0.01
SPARSITY = 0.5
SWEEP = {"name": "sweep", "block": BLOCK, "damping": DAMPING}


@dataclass(frozen=True)
class Setting:
    """One method with the settings that all contestants can express exactly."""

    name: str
    title: str
    needs: str
    """The statistics: "full" Hessians, or their "diagonal"."""
    espalier: dict[str, Any] = field(repr=False)
    """Keys of a variant in params.yaml."""
    published: dict[str, Any] = field(repr=False)
    """Keyword arguments of a loop in `benchmarks.common.published`, with its name."""
    llmcompressor: dict[str, Any] = field(repr=False)
    """Fields of a modifier, with its class name."""
    aims: dict[str, float] = field(default_factory=dict, repr=False)
    """What this project aims at: "floor" at most so many times the floor; the others at least so many times faster."""


SETTINGS = (
    Setting(
        "sparsegpt-50",
        "SparseGPT 50 %",
        "full",
        {
            "saliency": {"name": "obs"},
            "pattern": {"name": "unstructured", "scope": "block"},
            "sparsity": SPARSITY,
            "compensation": SWEEP,
        },
        {"loop": "sparsegpt", "sparsity": SPARSITY, "block": BLOCK, "damping": DAMPING},
        {
            "modifier": "SparseGPTModifier",
            "sparsity": SPARSITY,
            "mask_structure": "0:0",
            "block_size": BLOCK,
            "dampening_frac": DAMPING,
        },
        {"floor": 1.3, "llmcompressor": 3.5, "variant": 15.0},
    ),
    Setting(
        "wanda-50",
        "Wanda 50 %",
        "diagonal",
        {
            "saliency": {"name": "wanda"},
            "pattern": {"name": "unstructured", "scope": "row"},
            "sparsity": SPARSITY,
            "compensation": {"name": "none"},
        },
        {"loop": "wanda", "sparsity": SPARSITY},
        {"modifier": "WandaPruningModifier", "sparsity": SPARSITY, "mask_structure": "0:0"},
        {"llmcompressor": 3.0, "variant": 15.0},
    ),
    Setting(
        "gptq-w4",
        "GPTQ W4",
        "full",
        {
            "quantizer": {"name": "affine", "bits": 4, "symmetric": True, "order": "activation"},
            "compensation": SWEEP,
        },
        {"loop": "gptq", "bits": 4, "block": BLOCK, "damping": DAMPING},
        # The scheme W4A16 with one grid per row in place of groups of 128, which do not divide every width.
        {
            "modifier": "GPTQModifier",
            "config_groups": {
                "group_0": {
                    "targets": ["Linear"],
                    "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel"},
                }
            },
            "actorder": "static",
            "block_size": BLOCK,
            "dampening_frac": DAMPING,
        },
        {"llmcompressor": 3.3, "variant": 15.0},
    ),
)

SWEEP_AIM = 6.0
"""So many times faster than its readable form the kernel of the column sweep is meant to be."""
NOTES = (
    "SparseGPT and Wanda: 50 % unstructured; SparseGPT chooses per 128 columns of a matrix, Wanda per row.",
    "GPTQ: 4 bits, symmetric, one grid per row fitted to the range of the dense row, columns in the order of their "
    "activations; block 128 and damping 0.01, as for SparseGPT.",
)


@dataclass(frozen=True)
class RandomModel:
    """A Llama with random weights (seed 0, float32, tied embeddings), for time."""

    width: int
    inner: int
    blocks: int
    heads: int
    kv_heads: int
    vocabulary: int = 2048
    context: int = 2048


@dataclass(frozen=True)
class Scale:
    """How large a run is; nothing but sizes differs between the real run and the smoke run."""

    model: RandomModel
    sequences: int
    length: int
    shipped_split: str
    """The part of the standard library that the shipped model is calibrated on; its "test" part judges."""
    shipped_sequences: int
    shipped_length: int
    evaluation_windows: int
    batch: int
    """Sequences per forward in Espalier; the result does not depend on it beyond rounding."""
    peer_batch: int
    """Sequences per forward in llm-compressor."""
    rate_seconds: float
    """Time spent on each shape when the rate of matrix products is measured."""
    sweep_size: int
    """Rows and columns of the matrix that `benchmarks.common.sweep` sweeps."""
    repeats: int


FULL = Scale(RandomModel(512, 1408, 8, 8, 4), 32, 512, "train", 64, 256, 96, 4, 16, 1.0, 2048, 3)
QUICK = Scale(RandomModel(64, 96, 2, 4, 2), 4, 32, "validation", 4, 64, 4, 2, 2, 0.01, 64, 1)
WARM = RandomModel(128, 192, 2, 4, 2)
"""The model that every process compresses once before its time is taken: 4 sequences of 64 tokens."""
WARM_SEQUENCES, WARM_LENGTH = 4, 64
