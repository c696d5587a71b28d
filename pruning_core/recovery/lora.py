"""LoRA with peft, for models that were made smaller and have no zeros to keep."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pruning_core.errors import InputError
from pruning_core.recovery import RECOVERIES
from pruning_core.recovery.training.language_objective import LanguageObjective
from pruning_core.recovery.training.loop import seeded, train
from pruning_core.recovery.training.settings import LanguageTraining
from pruning_core.recovery.training.setup import checkpoints_of
from pruning_core.recovery.training.trainable_model import Recovered, TrainableModel

if TYPE_CHECKING:
    from peft import PeftMixedModel, PeftModel

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "up_proj")


@RECOVERIES.register("lora")
class Lora(LanguageTraining):
    """W' = W + (alpha / rank) B A, merged at the end (arXiv:2106.09685).

    The defaults are those of LLM-Pruner (arXiv:2305.11627): two epochs of 64 windows a step, four a forward, 100 steps
    of warm-up and a linear fall, and the weights with the best validation loss.

    modules: last parts of the names of the linear layers that get an A and a B.
    dropout: of what enters A, in training.
    """

    default_epochs = 2.0

    batch: Annotated[int, Field(ge=1)] = 64
    micro_batch: Annotated[int, Field(ge=1)] | None = 4
    warmup: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = 100
    schedule: Literal["cosine", "linear"] = "linear"
    validate_every: Annotated[int, Field(ge=1)] = 100
    keep: Literal["last", "best"] = "best"
    rank: Annotated[int, Field(ge=1)] = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    modules: list[str] = Field(default_factory=lambda: list(PROJECTIONS), min_length=1)

    def recover(self, model: TrainableModel) -> Recovered:
        """See `Recovery`; InputError as `objective`."""
        with self.objective(model) as objective:
            curve = train(objective, self, checkpoints_of(model, self, model.checkpoints), model.progress)
        return Recovered([f"{name}.weight" for name in self.chosen(model.matrices())], {}, {"model": curve})

    @contextmanager
    def objective(self, model: TrainableModel) -> Iterator[LanguageObjective]:
        """What is trained, and what for; the adapters are in the model inside the block, and merged after it.

        Raises:
            InputError: a model with masks, which a merge would fill, or without the named modules.
        """
        if model.masks:
            raise InputError("lora would fill the zeros of this model's masks when it is merged; use masked_lora")
        matrices = self.chosen(model.matrices())
        with seeded(self.seed):
            adapted = self._adapted(model.decoder.model, matrices)
        try:
            parameters = {name: one for name, one in adapted.named_parameters() if one.requires_grad}
            inner = adapted.named_modules()
            dropouts = tuple(one for name, one in inner if "lora_dropout" in name and isinstance(one, nn.Dropout))
            yield LanguageObjective(model, self, parameters, dropouts=dropouts)
        finally:
            adapted.merge_and_unload()
        model.decoder.model.requires_grad_(False)

    def chosen(self, matrices: dict[str, nn.Module]) -> dict[str, nn.Module]:
        """The matrices whose names end in one of `modules`.

        Raises:
            InputError: one of them is nowhere in the model; the sentence has those that are.
        """
        ends = {name: name.rpartition(".")[2] for name in matrices}
        missing = [module for module in self.modules if module not in ends.values()]
        if missing:
            there = ", ".join(dict.fromkeys(ends.values()))
            raise InputError(
                f"the model has no linear layers called {', '.join(missing)}; set modules to some of: {there}"
            )
        return {name: module for name, module in matrices.items() if ends[name] in self.modules}

    def _adapted(self, model: PreTrainedModel, matrices: dict[str, nn.Module]) -> "PeftModel | PeftMixedModel":
        """peft's wrapper; the adapters are put into `model` itself."""
        # Half a second to import, which no other method needs.
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft divides it by the rank; it need not be whole
            lora_dropout=self.dropout,
            target_modules=list(matrices),
            bias="none",
            task_type="CAUSAL_LM",
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in matrices.values()),
        )
        return get_peft_model(model, config)
