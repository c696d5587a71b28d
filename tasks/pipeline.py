"""Which steps make a variant, in which order: one wiring for Prefect flows, DVC stages and `explain`.

Every step goes through `context.run`; a driver that only looks (explain) returns None for what is not there yet.
"""

import platform
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import torch

from pruning_core.context_length import context_length
from pruning_core.exported import PLAIN, format_of
from pruning_core.fallbacks import check_fallbacks
from pruning_core.hidden_states import micro_batch
from pruning_core.model_files import read_config
from pruning_core.plan.skeleton import Skeleton
from pruning_core.recipe import BASELINE, Recipe, Settings
from pruning_core.shares import Matrix, matrices_of, method_shares
from pruning_core.text import TEXTS
from pruning_core.window_settings import Calibration
from tasks.allocating import allocate
from tasks.allocation import load_shares
from tasks.artifact import Artifact
from tasks.assemble import assemble
from tasks.evaluate import evaluate
from tasks.judging import judged
from tasks.measure import measure
from tasks.prune_block import prune_block
from tasks.recovering import recovered
from tasks.sampling import written
from tasks.shrinking import shrunk
from tasks.sources import as_artifact, source_model
from tasks.statistics import statistics
from tasks.step import Context
from tasks.tokens import tokens

SPEED_PROMPT = 128
SPEED_GENERATED = 32


class Pipeline:
    """The steps of all variants of one params.yaml.

    Args:
        context: store, workspace and the driver that runs steps.
        settings: a checked params.yaml.
        enforce: stop a variant whose finished blocks have more fallbacks than it allows; a driver that only looks
            does not.
    """

    def __init__(self, context: Context, settings: Settings, enforce: bool = True) -> None:
        self.context = context
        self.settings = settings
        self.trust = settings.trust_remote_code
        self.enforce = enforce
        self._allocations: dict[str, Artifact | None] = {}

    @cached_property
    def source(self) -> Artifact:
        """The dense model."""
        return as_artifact(source_model(self.context.workspace, self.settings))

    @cached_property
    def depth(self) -> int:
        """How many blocks the model has."""
        config = read_config(self.source.path, trust_remote_code=self.trust)
        return config.get_text_config().num_hidden_layers

    @cached_property
    def calibration(self) -> Artifact:
        """Calibration windows."""
        return self.sampled(self.settings.calibration, "calibration")

    def sampled(self, chosen: Calibration, label: str) -> Artifact:
        """Windows of a text as calibration draws them, named `label` for people."""
        wanted = {"sequences": chosen.sequences, "sampling": chosen.sampling, "seed": chosen.seed}
        return self._tokens("calibration", chosen, wanted, label)

    @cached_property
    def evaluation(self) -> Artifact:
        """Evaluation windows."""
        return self._evaluation_windows(self.source, "evaluation")

    def beside(self, model: Artifact, label: str) -> Artifact:
        """The quality of a model made before, on the windows that its own tokenizer makes of the evaluation text."""
        params = self._judging(model)
        inputs = {"model": model, "tokens": self._evaluation_windows(model, f"{label} evaluation")}
        return self.context.run(evaluate, params, inputs, f"{label} evaluation")

    def model(self, name: str) -> Artifact:
        """The model directory of a variant; the source itself for the baseline."""
        if name == BASELINE:
            return self.source
        recipe = self.settings.recipe(name)
        made = self.compressed(name)
        return made if recipe.recovery is None else recovered(self, recipe, made)

    def compressed(self, name: str) -> Artifact:
        """What a variant is before any recovery; the source where the recipe compresses nothing."""
        recipe = self.settings.recipe(name)
        if recipe.structured is not None:
            return shrunk(self, recipe)
        if recipe.method is None:
            return self.source
        blocks = self._blocks(recipe)
        inputs = {"source": self.source} | {f"block-{index}": block for index, block in enumerate(blocks)}
        if recipe.allocation is not None:
            inputs["allocation"] = self.allocation(name)
        return self.context.run(assemble, {"recipe": recipe.compression_spec}, inputs, f"{name} model")

    def allocation(self, name: str) -> Artifact | None:
        """How much of each matrix of a variant goes; None where every matrix gets what the method says."""
        recipe = self.settings.recipe(name)
        if recipe.allocation is None:
            return None
        if name not in self._allocations:
            self._allocations[name] = allocate(self, recipe)
        return self._allocations[name]

    @cached_property
    def matrices(self) -> tuple[Matrix, ...]:
        """The prunable matrices, read off the model's configuration."""
        config = read_config(self.source.path, trust_remote_code=self.trust)
        return matrices_of(Skeleton(config, torch.float32, self.trust))

    def evaluated(self, name: str) -> Artifact:
        """The quality of a variant on the evaluation windows."""
        return self.beside_dense(self.model(name), name, compared=name != BASELINE)

    def beside_dense(self, model: Artifact | None, label: str, *, compared: bool = True) -> Artifact:
        """The quality of a model on the evaluation windows, `compared` with the dense one on the same."""
        inputs = {"model": model, "tokens": self.evaluation}
        if compared:
            inputs |= {"source": self.source, "baseline": self.evaluated(BASELINE)}
        return self.context.run(evaluate, self._judging(model), inputs, f"{label} evaluation")

    def _judging(self, model: Artifact | None) -> dict[str, Any]:
        return {"batch": self.settings.evaluation.batch, "trust_remote_code": self.trust, **_format(model)}

    def task_evaluated(self, name: str) -> Artifact | None:
        """The answers of a variant to the tasks of params.yaml; None where it has none."""
        return judged(self, name)

    def written(self, name: str) -> Artifact | None:
        """What a variant writes after the prompts of params.yaml; None where it has none."""
        return written(self, name)

    def figures(self, name: str) -> tuple[Artifact, Artifact, Artifact | None]:
        """The quality of a variant, that of the dense model, and what the variant answered to tasks where there are."""
        return self.evaluated(name), self.evaluated(BASELINE), self.task_evaluated(name)

    def measured(self, name: str) -> Artifact:
        """The speed of a variant on this machine."""
        config = read_config(self.source.path, trust_remote_code=self.trust)
        model = self.model(name)
        params = {"machine": machine(), "trust_remote_code": self.trust, **speed_lengths(config), **_format(model)}
        return self.context.run(measure, params, {"model": model}, f"{name} speed")

    @cached_property
    def forwards(self) -> dict[str, Any]:
        """How blocks run during calibration, as params of a step."""
        chosen, shards = self.settings.calibration, self.settings.compute.shards
        return ({"shards": shards} if shards > 1 else {}) | {
            "batch": micro_batch(chosen.length, chosen.batch),
            "trust_remote_code": self.trust,
            **asdict(self.settings.compute.running()),
            "states": self.settings.compute.states,
        }

    def _evaluation_windows(self, source: Artifact, label: str) -> Artifact:
        chosen = self.settings.evaluation
        wanted = {name: getattr(chosen, name) for name in ("windows", "special_tokens", "stride", "bos")}
        return self._tokens("evaluation", chosen, wanted, label, source)

    def _tokens(
        self, role: str, chosen: Any, wanted: dict[str, Any], label: str, source: Artifact | None = None
    ) -> Artifact:
        documents = TEXTS.build(chosen.text).read(self.context.workspace)
        params = {
            "role": role,
            "text": chosen.text,
            "text_digest": documents.digest,
            "length": chosen.length,
            "trust_remote_code": self.trust,
            **wanted,
        }
        return self.context.run(tokens, params, {"source": source or self.source}, f"{label} tokens")

    def _blocks(self, recipe: Recipe) -> list[Artifact]:
        blocks: list[Artifact] = []
        ledger: list[dict[str, Any]] = []
        shares = self._shares(recipe)
        for index in range(self.depth):
            params = {
                "block": index,
                "method": recipe.method_spec,
                "propagate": recipe.propagate if recipe.calibrates else None,
                **self.forwards,
                **shares[index],
            }
            inputs = {"source": self.source} | self._block_inputs(recipe, index, blocks)
            if recipe.allocation is not None and self.allocation(recipe.name) is None:
                # A driver that only looks: what the block would be made with is not known.
                inputs["allocation"] = None
            blocks.append(self.context.run(prune_block, params, inputs, f"{recipe.name} block {index}"))
            if self.enforce:
                # Not a part of the step, whose result is the same whatever is allowed: raising the number goes on here.
                ledger += blocks[-1].facts["ledger"]
                check_fallbacks(ledger, recipe.max_fallbacks)
        return blocks

    def _shares(self, recipe: Recipe) -> list[dict[str, Any]]:
        """Per block the params that say how much of each matrix goes: none where it is what the method says anyway.

        So blocks whose shares are equal are one block, whichever allocation, or none, gave them.
        """
        decided = self.allocation(recipe.name)
        if decided is None:
            return [{}] * self.depth
        shares, of_method = load_shares(decided), method_shares(recipe.method, self.matrices)
        params = []
        for index in range(self.depth):
            names = [matrix.name for matrix in self.matrices if matrix.block == index]
            own = shares.of(names)
            params.append({} if own == of_method.of(names) else {"shares": own.facts()})
        return params

    def _block_inputs(self, recipe: Recipe, index: int, blocks: list[Artifact]) -> dict[str, Artifact]:
        if not recipe.calibrates:
            return {}
        if recipe.propagate == "dense":
            return {"statistics": self.statistics(index)}
        return {"tokens": self.calibration} | ({"previous": blocks[-1]} if blocks else {})

    def statistics(self, index: int) -> Artifact:
        """What is known of the inputs of a block of the dense model."""
        params = {"block": index, **self.forwards}
        inputs = {"source": self.source, "tokens": self.calibration}
        return self.context.run(statistics, params, inputs, f"statistics of block {index}")


def _format(model: Artifact | None) -> dict[str, str]:
    """The param that names what reads a model, where not any loader does; none of a model that is not there yet."""
    name = PLAIN if model is None else format_of(model.path).name
    return {} if name == PLAIN else {"format": name}


def speed_lengths(config: Any) -> dict[str, int]:
    """Prompt and generated tokens of a speed measurement, halved until they fit the model's context."""
    limit = context_length(config) or SPEED_PROMPT + SPEED_GENERATED
    scale = min(1.0, limit / (SPEED_PROMPT + SPEED_GENERATED))
    return {"prompt": max(1, int(SPEED_PROMPT * scale)), "generated": max(1, int(SPEED_GENERATED * scale))}


def machine() -> dict[str, Any]:
    """What a measured speed holds for."""
    return {"processor": processor(), "cores": psutil.cpu_count(), "system": platform.system()}


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
