"""The checkpoint layout of GPTQ: integers packed along the inputs, 16-bit scales, read by GPTQModel and vLLM."""

import json
import math
import re
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.stored_model import StoredGrid, StoredModel
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.export.packing.bit_streams import WORD, pack_bits, unpack_bits, words_of
from pruning_core.export.packing.linears import other_linears
from pruning_core.export.packing.packed_matrices import packed_matrix, write_packed
from pruning_core.export.packing.quantization_config import quantization_config, set_quantization_config
from pruning_core.export.packing.stored_grids import DENSE_FORMATS, Grids, common_grids, whole_matrices
from pruning_core.export.stored.previewed_model import PreviewedModel
from pruning_core.progress import Progress

BITS = (2, 3, 4, 8)
PARTS = ("qweight", "qzeros", "scales", "g_idx")
SIDE_FILE = "quantize_config.json"


@FORMATS.register("gptq")
class Gptq:
    """The variant's own codes with scales in float16, weight = scale (code - zero).

    checkpoint_format: gptq stores each zero point less 1, as the first code did, and thus none that is 0; gptq_v2
        stores it as it is. Absent: gptq for symmetric grids, gptq_v2 for others, which is what GPTQModel loads.
    """

    name: ClassVar[str]
    checkpoint_format: Literal["gptq", "gptq_v2"] | None = None

    exact = False
    native = False
    library = "gptqmodel"
    shell = False

    def foresee(self, model: PreviewedModel) -> None:
        self.check(model)

    def check(self, model: StoredModel) -> None:
        self._grids(model)

    def write(self, model: StoredModel, out: Path, progress: Progress) -> dict[str, Any]:
        grids = self._grids(model)
        layout = self._layout(grids)
        matrices = whole_matrices(model, self.name)

        def make(name: str) -> tuple[Any, ...]:
            if name not in matrices:
                return (model.load(name),)
            grid = model.quantized_grid(matrices[name])
            parts = _parts(name, grid, layout)
            return packed_matrix(parts, parts[f"{name.removesuffix('weight')}scales"].T, grid.scale)

        packing = write_packed(model, out, make, progress)
        config = _config(grids, layout, other_linears(model))
        set_quantization_config(out, config)
        (out / SIDE_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return {"checkpoint_format": layout, **packing}

    def recognises(self, directory: Path) -> bool:
        return quantization_config(directory).get("quant_method") == "gptq"

    def read(self, directory: Path) -> "GptqWeights":
        return GptqWeights(directory)

    def command(self) -> str:
        return 'from gptqmodel import GPTQModel\nmodel = GPTQModel.load("{path}")'

    def _layout(self, grids: Grids) -> str:
        return self.checkpoint_format or ("gptq" if grids.symmetric else "gptq_v2")

    def _grids(self, model: StoredModel) -> Grids:
        """Raises InputError where the layout cannot express the variant."""
        grids = common_grids(model, self.name)
        if grids.bits not in BITS:
            raise InputError(
                f"the GPTQ layout has codes of {', '.join(map(str, BITS))} bits, not of {grids.bits}; use --format"
                " compressed_tensors"
            )
        for matrix in model.quantized:
            if matrix.rows % WORD or matrix.columns % WORD:
                raise InputError(
                    f"the GPTQ layout packs {WORD} inputs and {WORD} outputs at a time, and {matrix.name} is"
                    f" {matrix.rows} x {matrix.columns}; use --format compressed_tensors"
                )
        if grids.lowest_zero == 0 and self._layout(grids) == "gptq":
            raise InputError(
                "checkpoint_format gptq stores each zero point less 1, and this variant has some that are 0; use"
                " --option checkpoint_format=gptq_v2"
            )
        for name, matrix in whole_matrices(model, self.name).items():
            _half(model.scales(matrix)[0], name)
        return grids


def _half(scale: Tensor, name: str) -> Tensor:
    half = scale.half()
    if not bool((half.isfinite() & (half > 0)).all()):
        raise InputError(f"float16, which the GPTQ layout has, cannot hold the scales of {name}; use {DENSE_FORMATS}")
    return half


def _parts(name: str, grid: StoredGrid, layout: str) -> dict[str, Tensor]:
    """The tensors that stand for one matrix [out, in]: all lie with the inputs first."""
    zero = (grid.zero - float(layout == "gptq")).to(torch.uint8)
    parts = {
        "qweight": pack_bits(grid.codes, grid.bits).T,
        "qzeros": pack_bits(zero.T.contiguous(), grid.bits),
        "scales": _half(grid.scale, name).T,
        "g_idx": grid.group.to(torch.int32),
    }
    return {f"{name.removesuffix('weight')}{part}": parts[part] for part in PARTS}


def _config(grids: Grids, layout: str, dense: list[str]) -> dict[str, Any]:
    # The head is dense without being named; a linear layer of a block that has no codes has to be.
    excluded = [name for name in dense if "." in name]
    return {
        "quant_method": "gptq",
        "checkpoint_format": layout,
        "bits": grids.bits,
        "group_size": -1 if grids.group_size is None else grids.group_size,
        "sym": grids.symmetric,
        "desc_act": grids.permuted is not None,
        "lm_head": False,
        "pack_dtype": "int32",
        "dynamic": {f"-:^{re.escape(name)}$": {} for name in excluded} or None,
    }


class GptqWeights:
    """The weights of a checkpoint in the GPTQ layout, float32 where packed.

    Raises:
        InputError: config.json tells of bits or of a layout that this reader does not know.
    """

    def __init__(self, directory: Path) -> None:
        self.checkpoint = Checkpoint(directory)
        config = quantization_config(directory)
        bits, layout = config.get("bits"), config.get("checkpoint_format", "gptq")
        if not isinstance(bits, int) or bits not in BITS or layout not in ("gptq", "gptq_v2"):
            raise InputError(
                f"{directory / 'config.json'} tells of {bits!r} bits in the layout {layout!r}; readable are"
                f" {', '.join(map(str, BITS))} bits in gptq and gptq_v2"
            )
        self._bits = bits
        self._less = 1 if layout == "gptq" else 0
        self._stems = {name.removesuffix("qweight") for name in self.checkpoint.names() if name.endswith(".qweight")}

    def names(self) -> list[str]:
        """All tensors, sorted."""
        parts = {f"{stem}{part}" for stem in self._stems for part in PARTS}
        return sorted((set(self.checkpoint.names()) - parts) | {f"{stem}weight" for stem in self._stems})

    def load(self, name: str) -> Tensor:
        """A weight [rows, columns] of the integers, or a tensor as stored.

        Raises:
            InputError: no such tensor, or parts that do not belong together.
        """
        stem = name.removesuffix("weight")
        if stem not in self._stems or name == stem:
            return self.checkpoint.load(name)
        words, zeros, scales, group = (self.checkpoint.load(f"{stem}{part}") for part in PARTS)
        columns, (groups, rows) = len(group), scales.shape if scales.ndim == 2 else (0, 0)
        fits = words.shape == (words_of(columns, self._bits), rows) and math.prod(words.shape) > 0
        fits = fits and zeros.shape == (groups, words_of(rows, self._bits)) and group.ndim == 1
        fits = fits and {words.dtype, zeros.dtype, group.dtype} == {torch.int32}
        if not fits or int(group.min()) < 0 or int(group.max()) >= groups:
            raise InputError(f"{self.checkpoint.directory}: the parts of {name} do not fit together; export it again")
        codes = unpack_bits(words.T, self._bits, columns).float()
        zero = unpack_bits(zeros, self._bits, rows).T.float() + self._less
        group = group.long()
        return scales.T.float()[:, group] * (codes - zero[:, group])
