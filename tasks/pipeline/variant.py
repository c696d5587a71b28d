"""The steps of a variant in their order: one wiring for Prefect flows, DVC stages and `explain`.

Every step goes through `context.run`; a driver that only looks (explain) returns None for what is not there yet.
"""

from typing import Any

from pruning_core.checkpoint.model_files import read_config
from pruning_core.export.stored.recognise import PLAIN, format_of
from pruning_core.model.context_length import context_length
from pruning_core.settings.recipe import BASELINE, Settings
from tasks.engine.step import Context
from tasks.machine.hardware import machine
from tasks.pipeline.allocation import allocate
from tasks.pipeline.blocks import compressed_blocks
from tasks.pipeline.inputs import Inputs
from tasks.pipeline.lm_eval import lm_eval_answers
from tasks.pipeline.recovery import recovered_model
from tasks.pipeline.samples import continuations
from tasks.pipeline.structured import pruned_model
from tasks.steps.assemble import AssembleParams, assemble
from tasks.steps.evaluate import EvaluateParams, evaluate
from tasks.steps.measure import MeasureParams, measure
from tasks.store.artifact import Artifact

SPEED_PROMPT = 128
SPEED_GENERATED = 32


class Pipeline(Inputs):
    """The steps of all variants of one params.yaml.

    Args:
        context: store, workspace and the driver that runs steps.
        settings: a checked params.yaml.
        enforce: stop a variant whose finished blocks have more fallbacks than it allows; a driver that only looks
            does not.
    """

    def __init__(self, context: Context, settings: Settings, enforce: bool = True) -> None:
        super().__init__(context, settings)
        self.enforce = enforce
        self._allocations: dict[str, Artifact | None] = {}

    def beside(self, model: Artifact, label: str) -> Artifact:
        """The quality of a model made before, on the windows that its own tokenizer makes of the evaluation text."""
        params = self._evaluate_params(model)
        inputs = {"model": model, "tokens": self.evaluation_windows(model, f"{label} evaluation")}
        return self.context.run(evaluate, params, inputs, f"{label} evaluation")

    def model(self, name: str) -> Artifact:
        """The model directory of a variant; the source itself for the baseline."""
        if name == BASELINE:
            return self.source
        recipe = self.settings.recipe(name)
        compressed = self.compressed_model(name)
        return compressed if recipe.recovery is None else recovered_model(self, recipe, compressed)

    def compressed_model(self, name: str) -> Artifact:
        """The model of a variant before any recovery; the source where the recipe compresses nothing."""
        recipe = self.settings.recipe(name)
        if recipe.structured is not None:
            return pruned_model(self, recipe)
        if recipe.method is None:
            return self.source
        allocation = self.allocation(name)
        blocks = compressed_blocks(self, recipe, allocation, self.enforce)
        inputs = {"source": self.source} | {f"block-{index}": block for index, block in enumerate(blocks)}
        if recipe.allocation is not None:
            inputs["allocation"] = allocation
        return self.context.run(assemble, AssembleParams(recipe=recipe.compression_spec), inputs, f"{name} model")

    def allocation(self, name: str) -> Artifact | None:
        """How much of each matrix of a variant goes; None where every matrix gets what the method says."""
        recipe = self.settings.recipe(name)
        if recipe.allocation is None:
            return None
        if name not in self._allocations:
            self._allocations[name] = allocate(self, recipe)
        return self._allocations[name]

    def quality(self, name: str) -> Artifact:
        """The quality of a variant on the evaluation windows."""
        return self.beside_dense(self.model(name), name, compared=name != BASELINE)

    def beside_dense(self, model: Artifact | None, label: str, *, compared: bool = True) -> Artifact:
        """The quality of a model on the evaluation windows, `compared` with the dense one on the same."""
        inputs = {"model": model, "tokens": self.evaluation}
        if compared:
            inputs |= {"source": self.source, "baseline": self.quality(BASELINE)}
        return self.context.run(evaluate, self._evaluate_params(model), inputs, f"{label} evaluation")

    def _evaluate_params(self, model: Artifact | None) -> EvaluateParams:
        batch = self.settings.evaluation.batch
        return EvaluateParams(batch=batch, trust_remote_code=self.trust, format=_format(model))

    def lm_eval_answers(self, name: str) -> Artifact | None:
        """The answers of a variant to the lm-eval tasks of params.yaml; None where it has none."""
        return lm_eval_answers(self, self.model, name)

    def samples(self, name: str) -> Artifact | None:
        """The continuations of the prompts of params.yaml by a variant; None where it has none."""
        return continuations(self, self.model, name)

    def figures(self, name: str) -> tuple[Artifact, Artifact, Artifact | None]:
        """The quality of a variant, that of the dense model, and the variant's answers to lm-eval tasks, if any."""
        return self.quality(name), self.quality(BASELINE), self.lm_eval_answers(name)

    def speed(self, name: str) -> Artifact:
        """The speed of a variant on this machine."""
        config = read_config(self.source.path, trust_remote_code=self.trust)
        model = self.model(name)
        lengths, format = speed_lengths(config), _format(model)
        params = MeasureParams(machine=machine(), trust_remote_code=self.trust, format=format, **lengths)
        return self.context.run(measure, params, {"model": model}, f"{name} speed")


def _format(model: Artifact | None) -> str | None:
    """The name of what reads a model, where not any loader does; None of a model that is not there yet."""
    name = PLAIN if model is None else format_of(model.path).name
    return None if name == PLAIN else name


def speed_lengths(config: Any) -> dict[str, int]:
    """Prompt and generated tokens of a speed measurement, halved until they fit the model's context."""
    limit = context_length(config) or SPEED_PROMPT + SPEED_GENERATED
    scale = min(1.0, limit / (SPEED_PROMPT + SPEED_GENERATED))
    return {"prompt": max(1, int(SPEED_PROMPT * scale)), "generated": max(1, int(SPEED_GENERATED * scale))}
