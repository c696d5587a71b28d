"""The next-token loss of a whole model as an objective, and the windows it can be taken on."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruning_core.errors import InputError
from pruning_core.evaluation.forward import check_windows
from pruning_core.evaluation.perplexity import perplexity
from pruning_core.model.decoder import Decoder
from pruning_core.model.vocabulary import vocabulary_size
from pruning_core.recovery.training.objective import Objective
from pruning_core.recovery.training.settings import LanguageTraining
from pruning_core.recovery.training.trainable_model import TrainableModel


class LanguageObjective(Objective):
    """Cross entropy in nats per token, and where the settings say so the distance to the teacher's predictions.

    Args:
        model: the model with its windows; `dtype` bfloat16 runs its products in that, losses stay float32.
        settings: how it is trained.
        parameters, masks: as in `Objective`.
        dropouts: modules that drop activations in training only.

    Raises:
        InputError: windows that the model cannot take, or a teacher that is missing or has another vocabulary.
    """

    def __init__(
        self,
        model: TrainableModel,
        settings: LanguageTraining,
        parameters: dict[str, nn.Parameter],
        masks: dict[str, Tensor] | None = None,
        dropouts: tuple[nn.Module, ...] = (),
    ) -> None:
        micro = settings.windows_per_forward(model.tokens.shape[1])
        super().__init__(parameters, len(model.tokens), micro, masks)
        self.model, self.device = model.decoder.model, model.decoder.device
        self.tokens, self.validation = model.tokens, model.validation
        self.teacher = _teacher(model, settings)
        self.distillation, self.temperature = settings.distillation, settings.temperature or 2.0
        self.halved = model.dtype == "bfloat16"
        self.dropouts = dropouts
        for module in dropouts:
            module.train()
        for windows in (self.tokens, self.validation):
            check_windows(self.model, windows, micro)

    def loss(self, rows: Tensor) -> Tensor:
        """See `Objective.loss`."""
        tokens = self.tokens[rows].to(self.device)
        logits = self._logits(self.model, tokens)
        loss = F.cross_entropy(logits, tokens[:, 1:].flatten())
        if self.teacher is None:
            return loss
        with torch.no_grad():
            expected = (self._logits(self.teacher, tokens) / self.temperature).log_softmax(-1)
        predicted = (logits / self.temperature).log_softmax(-1)
        distance = F.kl_div(predicted, expected, reduction="batchmean", log_target=True)
        return loss + self.distillation * self.temperature**2 * distance

    def held_out(self) -> float:
        """Nats per token of the validation windows, in float32 as an evaluation takes them."""
        for module in self.dropouts:
            module.eval()
        loss = perplexity(self.model, self.validation, self.micro_batch).mean_loss
        for module in self.dropouts:
            module.train()
        return loss

    def _logits(self, model: PreTrainedModel, tokens: Tensor) -> Tensor:
        """[positions, vocabulary] float32."""
        with self._precision():
            logits: Tensor = model(input_ids=tokens, use_cache=False).logits[:, :-1]
        return logits.flatten(0, 1).float()

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.halved else nullcontext()


def _teacher(model: TrainableModel, settings: LanguageTraining) -> PreTrainedModel | None:
    if not settings.needs_teacher:
        return None
    teacher = required_teacher(model, "distillation").model
    own, dense = vocabulary_size(model.decoder.model), vocabulary_size(teacher)
    if own != dense:
        raise InputError(f"the models predict {own} and {dense} tokens; distillation needs one vocabulary")
    return teacher


def required_teacher(model: TrainableModel, what: str) -> Decoder:
    """The dense model; InputError where there is none."""
    if model.teacher is None:
        raise InputError(f"{what} learns from the dense model, which was not given")
    return model.teacher
