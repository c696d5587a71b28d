"""Where the parameters of a running model lie in its checkpoint, whose names and shapes may differ.

transformers renames on loading (GPT-NeoX's `embed_out` runs as `lm_head`) and fuses the matrices of experts into
three-dimensional parameters; its own conversion mapping says which. Here experts run unfused, so a matrix is either a
tensor of its own or a slice of a fused one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    apply_renamings,
    rename_source_key,
)

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.errors import InputError
from pruning_core.model.experts import FUSED, fused_experts


@dataclass(frozen=True)
class Place:
    """A tensor of the checkpoint, or the part of one that holds all experts of a layer."""

    name: str
    """Stored name."""
    expert: int | None = None
    """Index into [experts, rows, columns]; None for a whole tensor."""
    part: int = 0
    """Which of `parts` equal groups of rows."""
    parts: int = 1

    def of(self, stored: Tensor) -> Tensor:
        """The parameter as a view of the stored tensor."""
        return stored if self.expert is None else stored[self.expert].chunk(self.parts)[self.part]


def stored_places(model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, Place]:
    """Name in the model with its experts unfused -> place; what the checkpoint lacks is left out.

    Args:
        model: as transformers builds it, experts still fused; may be on the meta device.

    Raises:
        InputError: the checkpoint stores a tensor that transformers would convert in a way that is not known here.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    running = model.state_dict()
    fused = {f"{name}.{parameter}" for name, _ in fused_experts(model) for parameter in FUSED}
    places: dict[str, Place] = {}
    for stored in checkpoint.names():
        renamed = apply_renamings(stored, renamings)
        target, pattern = rename_source_key(renamed, [], converters, model.base_model_prefix, running)
        if target not in running:
            continue
        if pattern is not None:
            converter = next(converter for converter in converters if pattern in converter.source_patterns)
            if target not in fused:
                raise _unknown(checkpoint, stored, converter)
            places[_expert_matrix(checkpoint, stored, renamed, target, pattern, converter)] = Place(stored)
        elif target in fused:
            places |= _slices(stored, target, len(running[target]))
        else:
            places[target] = Place(stored)
    return places


def _expert_matrix(
    checkpoint: Checkpoint, stored: str, renamed: str, target: str, pattern: str, converter: WeightConverter
) -> str:
    """The unfused name of a matrix that is stored on its own and that transformers merges into `target`."""
    module, _, parameter = target.rpartition(".")
    matrices = FUSED[parameter]
    expected = [(MergeModulelist, 0), (Concatenate, 1)][: len(matrices)]
    operations = [(type(operation), getattr(operation, "dim", None)) for operation in converter.operations]
    number = re.search(pattern.replace("*.", r"(\d+)\."), renamed)
    if operations != expected or len(converter.source_patterns) != len(matrices) or number is None:
        raise _unknown(checkpoint, stored, converter)
    return f"{module}.{number[1]}.{matrices[converter.source_patterns.index(pattern)]}.weight"


def _slices(stored: str, target: str, experts: int) -> dict[str, Place]:
    """The matrices of all experts in a checkpoint that stores them fused."""
    module, _, parameter = target.rpartition(".")
    matrices = FUSED[parameter]
    return {
        f"{module}.{expert}.{matrix}.weight": Place(stored, expert, part, len(matrices))
        for expert in range(experts)
        for part, matrix in enumerate(matrices)
    }


def _unknown(checkpoint: Checkpoint, stored: str, converter: WeightConverter) -> InputError:
    operations = ", ".join(type(operation).__name__ for operation in converter.operations)
    return InputError(
        f"{checkpoint.directory} stores {stored!r} otherwise than the model runs it ({operations}), which cannot be "
        "written back; save the model with save_pretrained(..., save_original_format=False) and compress that"
    )


def by_stored_tensor(places: dict[str, Place], prefix: str) -> Iterator[tuple[str, list[tuple[str, Place]]]]:
    """(stored name, its parameters under a module as (name in the model, place)), each stored tensor once."""
    members: dict[str, list[tuple[str, Place]]] = {}
    for name, place in places.items():
        if name.startswith(prefix):
            members.setdefault(place.name, []).append((name, place))
    yield from members.items()
