"""Sparse fine-tuning: every weight that survived is trained, removed ones stay removed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pruning_core.recovery import RECOVERIES
from pruning_core.recovery.training.language_objective import LanguageObjective
from pruning_core.recovery.training.loop import train
from pruning_core.recovery.training.parametrizations import Masked, own_layout, parametrized
from pruning_core.recovery.training.settings import LanguageTraining
from pruning_core.recovery.training.setup import checkpoints_of, freeze, trainable
from pruning_core.recovery.training.trainable_model import Recovered, TrainableModel, check_masks, require_zeros


@RECOVERIES.register("sparse_finetune")
class SparseFinetune(LanguageTraining):
    """Fine-tuning under a frozen mask; of a model without masks, plain fine-tuning.

    form: how the mask is held. `projection` masks gradients before they are clipped, and after every step the weights
        and the optimizer's moments. `product` trains V with W = m o V. Both take the same steps.
    trained: the prunable matrices alone, or embeddings, norms, biases and the head too.
    """

    form: Literal["projection", "product"] = "projection"
    trained: Literal["all", "matrices"] = "all"

    def recover(self, model: TrainableModel) -> Recovered:
        """See `Recovery`."""
        check_masks(model)
        with self.objective(model) as objective:
            curve = train(objective, self, checkpoints_of(model, self, model.checkpoints), model.progress)
        require_zeros(model, model.masks)
        return Recovered(list(objective.parameters), model.masks, {"model": curve})

    @contextmanager
    def objective(self, model: TrainableModel) -> Iterator[LanguageObjective]:
        """What is trained, and what for; the model is ready to be trained inside the block."""
        modules = model.matrices()
        parameters = trainable(model, None if self.trained == "all" else modules)
        masks = {name: own_layout(modules[name], keep) for name, keep in model.masks.items()}
        product = {modules[name]: Masked(keep) for name, keep in masks.items()} if self.form == "product" else {}
        projected = {} if product else {f"{name}.weight": keep for name, keep in masks.items()}
        with parametrized(product):
            yield LanguageObjective(model, self, parameters, projected)
        freeze(parameters)
