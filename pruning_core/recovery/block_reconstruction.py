"""Block-wise reconstruction: each block's surviving weights are fitted to what the dense block puts out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from pruning_core.errors import InputError
from pruning_core.model.decoder import Decoder
from pruning_core.recovery import RECOVERIES
from pruning_core.recovery.training.block_objective import BlockObjective, Streams
from pruning_core.recovery.training.language_objective import required_teacher
from pruning_core.recovery.training.loop import train
from pruning_core.recovery.training.parametrizations import own_layout
from pruning_core.recovery.training.settings import Training
from pruning_core.recovery.training.setup import checkpoints_of, freeze, trainable
from pruning_core.recovery.training.trainable_model import Recovered, TrainableModel, check_masks, require_zeros

ATTENTION = ("attn", "attention")
"""What the name of every supported architecture's attention module holds."""


@RECOVERIES.register("block_reconstruction")
class BlockReconstruction(Training):
    """min ||B_dense(x) - B_pruned(x~)||^2 over the surviving weights of the matrices, block after block.

    x is what the dense model hands to the block, x~ what the recovered blocks before it hand over: errors are absorbed
    on the way. The loss is relative to the squared size of the dense output: a block that puts out nothing has 1.

    parts: `apart` fits the attention's matrices to the dense attention's output, then the others to the block's
        (reported as both cheapest and best, arXiv:2510.14444); `together` fits all to the latter.
    """

    default_steps: ClassVar[int | None] = 200

    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    parts: Literal["apart", "together"] = "apart"

    @property
    def needs_teacher(self) -> bool:
        """Always: its outputs are what is fitted."""
        return True

    def recover(self, model: TrainableModel) -> Recovered:
        """See `Recovery`; InputError without a dense model of as many blocks and the same width."""
        check_masks(model)
        teacher = required_teacher(model, "block_reconstruction")
        self._check_alike(model, teacher)
        micro = self.windows_per_forward(model.tokens.shape[1])
        training = Streams.at_entry(model.decoder, teacher, model.tokens, micro)
        held_out = Streams.at_entry(model.decoder, teacher, model.validation, micro)
        curves: dict[str, list[dict[str, Any]]] = {}
        changed: list[str] = []
        parts = [(index, *part) for index in range(len(model.decoder)) for part in self.parts_of(model, index)]
        for place, (index, part, watched, modules) in enumerate(parts):
            parameters = trainable(model, modules)
            objective = BlockObjective(parameters, training, held_out, index, watched, _masks(model, modules))
            folder = model.checkpoints / f"{index:04d}-{part}"
            curves[f"block {index} {part}"] = self._fit(model, objective, folder, place, len(parts))
            freeze(parameters)
            changed += parameters
            if place + 1 == len(parts) or parts[place + 1][0] != index:
                training.advance(index)
                held_out.advance(index)
        require_zeros(model, model.masks)
        return Recovered(changed, model.masks, curves)

    def _fit(
        self, model: TrainableModel, objective: BlockObjective, folder: Path, place: int, parts: int
    ) -> list[dict[str, Any]]:
        def progress(done: int, total: int) -> None:
            model.progress(place * total + done, parts * total)

        return train(objective, self, checkpoints_of(model, self, folder), progress)

    def parts_of(self, model: TrainableModel, index: int) -> Iterator[tuple[str, str | None, dict[str, nn.Module]]]:
        """(name, module whose output is fitted or None for the block, matrices that are trained) of a block."""
        linears = model.decoder.linears(index)
        if self.parts == "together":
            yield "whole", None, linears
            return
        prefix = f"{model.decoder.block_prefix}.{index}."
        owners = {name: name.removeprefix(prefix).partition(".")[0] for name in linears}
        attention = next((owner for owner in owners.values() if any(word in owner for word in ATTENTION)), None)
        if attention is None:
            raise InputError(f"block {index} has no attention with matrices of its own; set parts to together")
        inside = {name: one for name, one in linears.items() if owners[name] == attention}
        yield "attention", attention, inside
        yield "mlp", None, {name: one for name, one in linears.items() if name not in inside}

    def _check_alike(self, model: TrainableModel, teacher: Decoder) -> None:
        decoders = (model.decoder, teacher)
        depths = [len(decoder) for decoder in decoders]
        widths = [decoder.model.config.get_text_config().hidden_size for decoder in decoders]
        for what, (own, dense) in (("blocks", depths), ("hidden values", widths)):
            if own != dense:
                raise InputError(
                    f"the model has {own} {what} and the dense one {dense}; block outputs cannot be compared"
                )


def _masks(model: TrainableModel, modules: dict[str, nn.Module]) -> dict[str, Tensor]:
    masked = {name: module for name, module in modules.items() if name in model.masks}
    return {f"{name}.weight": own_layout(module, model.masks[name]) for name, module in masked.items()}
