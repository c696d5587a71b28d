"""The pack-quantized format of compressed-tensors: integers in 32-bit words, read by transformers and by vLLM."""

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.stored_model import StoredGrid, StoredModel
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.export.packing.bit_streams import WORD, unpack_bits, words_of
from pruning_core.export.packing.linears import other_linears
from pruning_core.export.packing.packed_matrices import packed_matrix, write_packed
from pruning_core.export.packing.quantization_config import quantization_config, set_quantization_config
from pruning_core.export.packing.stored_grids import DENSE_FORMATS, Grids, common_grids, whole_matrices
from pruning_core.export.stored.previewed_model import PreviewedModel
from pruning_core.model.widths import structure_of
from pruning_core.progress import Progress

METHOD = "compressed-tensors"
PACKED = "weight_packed"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@FORMATS.register("compressed_tensors")
class CompressedTensors:
    """The variant's own codes, packed by the compressed-tensors library; nothing is rounded anew.

    scale_dtype: of the scales in the file; float32 keeps every weight bit for bit.
    """

    name: ClassVar[str]
    scale_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    native = True
    library = "transformers"
    shell = False

    @property
    def exact(self) -> bool:
        return self.scale_dtype == "float32"

    def foresee(self, model: PreviewedModel) -> None:
        self.check(model)

    def check(self, model: StoredModel) -> None:
        self._grids(model)

    def write(self, model: StoredModel, out: Path, progress: Progress) -> dict[str, Any]:
        grids = self._grids(model)
        matrices = whole_matrices(model, self.name)

        def make(name: str) -> tuple[Any, ...]:
            if name not in matrices:
                return (model.load(name),)
            grid = model.quantized_grid(matrices[name])
            scale = self._scale(grid, name)
            return packed_matrix(_parts(name.removesuffix("weight"), grid, scale, grids.symmetric), scale, grid.scale)

        packing = write_packed(model, out, make, progress)
        set_quantization_config(out, _config(grids, other_linears(model)))
        return {"scale_dtype": self.scale_dtype, **packing}

    def recognises(self, directory: Path) -> bool:
        config = quantization_config(directory)
        return config.get("quant_method") == METHOD and config.get("format") == "pack-quantized"

    def read(self, directory: Path) -> "PackedWeights":
        return PackedWeights(directory)

    def command(self) -> str:
        return 'from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained("{path}")'

    def _grids(self, model: StoredModel) -> Grids:
        """Raises InputError where the format cannot express the variant."""
        if structure_of(model.architecture) is not None:
            raise InputError(
                f"the blocks of this variant differ in width, and no loader of --format {self.name} reads that; use"
                f" {DENSE_FORMATS}"
            )
        grids = common_grids(model, self.name)
        if fault := _fault(model, grids):
            raise InputError(f"--format {self.name} cannot express this variant: {fault}")
        return grids

    def _scale(self, grid: StoredGrid, name: str) -> Tensor:
        scale = grid.scale.to(DTYPES[self.scale_dtype])
        if not bool((scale.isfinite() & (scale > 0)).all()):
            raise InputError(f"{self.scale_dtype} cannot hold the scales of {name}; use scale_dtype float32")
        return scale


def _fault(model: StoredModel, grids: Grids) -> str:
    """What keeps the consumers from reading the variant, and what to do; "" where nothing does."""
    experts = [matrix.name for matrix in model.quantized if ".experts." in matrix.name]
    if grids.permuted:
        return (
            f"the groups of {grids.permuted.name} are not runs of columns, and compressed-tensors has dropped group"
            " indices; add static_groups: true to the quantizer, or use --format gptq"
        )
    if grids.uneven:
        return (
            f"the {grids.uneven.columns} inputs of {grids.uneven.name} are no multiple of the group size"
            f" {grids.group_size}; choose a group_size that divides them, or use --format gptq"
        )
    if experts and not grids.symmetric:
        return (
            f"transformers reads packed experts such as {experts[0]} with symmetric grids alone; add symmetric: true to"
            f" the quantizer, or use {DENSE_FORMATS}"
        )
    # compressed-tensors 0.20 takes zero points that fit into one word per group for contiguous, and fails.
    narrow = [one.name for one in model.quantized if one.rows * 4 <= WORD and one.code_groups > 1]
    if narrow and grids.bits == 4 and not grids.symmetric:
        return (
            f"{narrow[0]} has so few outputs that compressed-tensors cannot unpack its zero points; add symmetric: true"
            f" to the quantizer, or use {DENSE_FORMATS}"
        )
    return ""


def _parts(prefix: str, grid: StoredGrid, scale: Tensor, symmetric: bool) -> dict[str, Tensor]:
    """The tensors that stand for one matrix."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    middle = 2 ** (grid.bits - 1)
    signed = (grid.codes.to(torch.int16) - middle).to(torch.int8)
    parts = {
        PACKED: pack_to_int32(signed, grid.bits),
        "weight_scale": scale,
        "weight_shape": torch.tensor(grid.codes.shape),
    }
    if not symmetric:
        zero = (grid.zero - middle).to(torch.int8)
        parts["weight_zero_point"] = pack_to_int32(zero, grid.bits, packed_dim=0)
    return {f"{prefix}{part}": tensor for part, tensor in parts.items()}


def _config(grids: Grids, ignore: list[str]) -> dict[str, Any]:
    import compressed_tensors
    from compressed_tensors.config import CompressionFormat
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
    )

    weights = QuantizationArgs(
        num_bits=grids.bits,
        symmetric=grids.symmetric,
        strategy="channel" if grids.group_size is None else "group",
        group_size=grids.group_size,
    )
    config = QuantizationConfig(
        config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)},
        format=CompressionFormat.pack_quantized.value,
        quantization_status=QuantizationStatus.COMPRESSED,
        ignore=ignore,
    )
    return {
        "version": compressed_tensors.__version__,
        "sparsity_config": {},
        "transform_config": {},
        # transformers would otherwise round the scales to the model's dtype, and refuse packed zero points: their place
        # in a model that is to stay packed has the shape of unpacked ones (transformers 5.23, compressed-tensors 0.20).
        "dequantize": True,
        **config.model_dump(mode="json"),
    }


class PackedWeights:
    """The weights of a pack-quantized model directory, float32 where packed.

    Raises:
        InputError: config.json tells of no integers, or of groups that this reader does not know.
    """

    def __init__(self, directory: Path) -> None:
        self.checkpoint = Checkpoint(directory)
        self._args = _weight_args(directory)
        self._packed = {
            f"{name.removesuffix(PACKED)}weight" for name in self.checkpoint.names() if name.endswith(f".{PACKED}")
        }

    def names(self) -> list[str]:
        """All tensors, sorted."""
        parts = {f"{name}{part}" for name in self._packed for part in ("_packed", "_scale", "_shape", "_zero_point")}
        return sorted((set(self.checkpoint.names()) - parts) | self._packed)

    def load(self, name: str) -> Tensor:
        """A weight [rows, columns] of the integers, or a tensor as stored.

        Raises:
            InputError: no such tensor, or parts that do not belong together.
        """
        if name not in self._packed:
            return self.checkpoint.load(name)
        bits = self._args["num_bits"]
        shape, words, scale = (self.checkpoint.load(f"{name}_{part}") for part in ("shape", "packed", "scale"))
        rows, columns = (int(size) for size in shape.tolist()) if shape.shape == (2,) else (0, 0)
        groups = scale.shape[-1] if scale.ndim == 2 else 0
        fits = words.dtype == torch.int32 and words.shape == (rows, words_of(columns, bits)) and rows > 0
        if not fits or len(scale) != rows or not groups or columns % groups:
            raise InputError(f"{self.checkpoint.directory}: the parts of {name} do not fit together; export it again")
        codes = unpack_bits(words, bits, columns).float().unflatten(1, (groups, -1))
        integers = codes - self._zero(name, rows, groups)[..., None]
        # The consumers multiply in the dtype of the scale.
        weight: Tensor = scale[..., None] * integers.to(scale.dtype)
        return weight.float().flatten(1)

    def _zero(self, name: str, rows: int, groups: int) -> Tensor:
        """[rows, groups] float32."""
        bits = self._args["num_bits"]
        if self._args["symmetric"]:
            return torch.full((rows, groups), 2.0 ** (bits - 1))
        words = self.checkpoint.load(f"{name}_zero_point")
        if words.dtype != torch.int32 or words.shape != (words_of(rows, bits), groups):
            raise InputError(f"{self.checkpoint.directory}: the zero points of {name} do not fit; export it again")
        return unpack_bits(words.T, bits, rows).T.float()


def _weight_args(directory: Path) -> dict[str, Any]:
    groups = quantization_config(directory).get("config_groups")
    weights = [group.get("weights") for group in groups.values()] if isinstance(groups, dict) else []
    args = weights[0] if len(weights) == 1 and isinstance(weights[0], dict) else {}
    bits, symmetric = args.get("num_bits"), args.get("symmetric")
    if args.get("type") != "int" or type(bits) is not int or not 1 <= bits <= 8 or type(symmetric) is not bool:
        raise InputError(
            f"{directory / 'config.json'} does not tell of one group of packed integers of 1 to 8 bits:"
            f" {json.dumps(weights)[:200]}"
        )
    return args
