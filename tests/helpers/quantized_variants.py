"""Quantized and pruned models in their directories, made by the real methods in a moment."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pruning_core import LayerStatistics, compress_layer
from pruning_core.checkpoint.bit_masks import pack_mask
from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.checkpoint.sharded_writer import ShardedWriter
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.progress import ignore_progress

SWEEP = {"name": "sweep", "block": 8}
SPARSE = {"saliency": {"name": "obs"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5}
WIDE = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "num_key_value_heads": 4}
"""Of a tiny Llama all of whose matrices are multiples of 32."""


def variant(source: Path, out: Path, *, sparse: bool = True, only: str = "layers.", **quantizer: Any) -> StoredModel:
    """`source` with the matrices of its blocks pruned to half where `sparse`, quantized where a setting is given.

    only: what the names of the tensors contain that are quantized.
    """
    checkpoint, draw = Checkpoint(source), torch.Generator().manual_seed(0)
    layers, codes, masks = [], {}, {}
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors"))
    with ShardedWriter(out) as writer:
        for name in checkpoint.names():
            weight = checkpoint.load(name)
            if _is_matrix(name):
                module = name.removesuffix(".weight")
                spec = dict(SPARSE) if sparse else {}
                if quantizer and only in name:
                    spec["quantizer"] = {"name": "affine", **quantizer}
                inputs = torch.randn(2, 64, weight.shape[1], generator=draw)
                done = compress_layer(weight, LayerStatistics.from_inputs(inputs), compensation=SWEEP, **spec)
                weight, masks[module] = done.weight.to(weight.dtype), pack_mask(done.keep)
                layers.append({"name": module, "stored": name, "rows": len(weight), "columns": weight.shape[1]})
                layers[-1]["removed"] = int((~done.keep).sum())
                if done.codes is not None:
                    layers[-1] |= {"bits": quantizer["bits"], "groups": done.scale.shape[1]}
                    parts = {"codes": done.codes, "scale": done.scale, "zero": done.zero, "group": done.group.int()}
                    codes |= {f"{module}.{part}": tensor.contiguous() for part, tensor in parts.items()}
            writer.add(name, weight)
    save_file(masks, out / "masks.safetensors")
    if codes:
        save_file(codes, out / "quantized.safetensors")
    return StoredModel(out, [LayerFacts(**layer) for layer in layers])


def coded(source: Path, out: Path, seed: int, bits: int, size: int | None, symmetric: bool) -> StoredModel:
    """`source` with codes, scales, zero points and an order of groups that are drawn at random."""
    checkpoint, draw = Checkpoint(source), torch.Generator().manual_seed(seed)
    shutil.copytree(source, out)
    layers, codes = [], {}
    for name in filter(_is_matrix, checkpoint.names()):
        rows, columns = checkpoint.shape(name)
        groups = -(-columns // (size or columns))
        parts = {
            "codes": torch.randint(0, 2**bits, (rows, columns), generator=draw, dtype=torch.uint8),
            "scale": torch.rand(rows, groups, generator=draw) + 0.01,
            "zero": torch.randint(0, 2**bits, (rows, groups), generator=draw).float(),
            "group": (torch.arange(columns) // (size or columns)).int(),
        }
        if symmetric:
            parts["zero"].fill_(2 ** (bits - 1))
        module = name.removesuffix(".weight")
        codes |= {f"{module}.{part}": tensor for part, tensor in parts.items()}
        layers.append({"name": module, "stored": name, "rows": rows, "columns": columns, "removed": 0})
        layers[-1] |= {"bits": bits, "groups": groups}
    save_file(codes, out / "quantized.safetensors")
    return StoredModel(out, [LayerFacts(**layer) for layer in layers])


def exported(form: Any, model: StoredModel, out: Path) -> dict[str, Any]:
    """The facts of the export, written beside copies of the small files."""
    shutil.copytree(model.directory, out, ignore=shutil.ignore_patterns("*.safetensors"))
    form.check(model)
    return form.write(model, out, ignore_progress)


def slow_values(words: Tensor, bits: int, count: int) -> list[int]:
    """The integers of a row of 32-bit words, read as one long number from its lowest bit on."""
    number = sum((int(word) & 0xFFFFFFFF) << 32 * index for index, word in enumerate(words))
    return [number >> bits * index & 2**bits - 1 for index in range(count)]


def _is_matrix(name: str) -> bool:
    return "_proj" in name or (".experts." in name and name.endswith((".w1.weight", ".w2.weight", ".w3.weight")))
