"""LoRA under a mask: low-rank changes that are masked in the forward, so that merging them changes nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from pruning_core.errors import InputError
from pruning_core.recovery import RECOVERIES
from pruning_core.recovery.training.language_objective import LanguageObjective
from pruning_core.recovery.training.loop import seeded, train
from pruning_core.recovery.training.parametrizations import MaskedLowRank, own_layout, parametrized
from pruning_core.recovery.training.settings import LanguageTraining
from pruning_core.recovery.training.setup import checkpoints_of
from pruning_core.recovery.training.trainable_model import Recovered, TrainableModel, check_masks, require_zeros


@RECOVERIES.register("masked_lora")
class MaskedLora(LanguageTraining):
    """W' = m o (W + (alpha / rank) B A) for every prunable matrix, with A and B trained.

    The mask is a part of the forward: the merged model computes what was trained, and its zeros are those of the mask
    by construction. LoRA (arXiv:2106.09685) masked only when it is merged would be another function than the trained.
    """

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0

    def recover(self, model: TrainableModel) -> Recovered:
        """See `Recovery`; InputError where there is no mask to keep."""
        check_masks(model)
        with self.objective(model) as objective:
            curve = train(objective, self, checkpoints_of(model, self, model.checkpoints), model.progress)
        require_zeros(model, model.masks)
        return Recovered([f"{name}.weight" for name in model.masks], model.masks, {"model": curve})

    @contextmanager
    def objective(self, model: TrainableModel) -> Iterator[LanguageObjective]:
        """What is trained, and what for; the changes are in the model inside the block, and merged after it.

        Raises:
            InputError: there is no mask to keep.
        """
        if not model.masks:
            raise InputError("masked_lora keeps masks and this model has none; use lora")
        modules = model.matrices()
        with seeded(self.seed):
            changes = {name: self._change(modules[name], keep) for name, keep in model.masks.items()}
        parameters = {f"{name}.{part}": getattr(one, part) for name, one in changes.items() for part in ("a", "b")}
        with parametrized({modules[name]: one for name, one in changes.items()}):
            yield LanguageObjective(model, self, parameters)

    def _change(self, module: nn.Module, keep: Tensor) -> MaskedLowRank:
        return MaskedLowRank(own_layout(module, keep), self.rank, self.alpha / self.rank)
