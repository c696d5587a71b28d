"""Which steps make a variant, in which order: one wiring for Prefect flows, DVC stages and `explain`.

Every step goes through `context.run`; a driver that only looks (explain) returns None for what is not there yet.
"""

import platform
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from pruning_core.context_length import context_length
from pruning_core.fallbacks import check_fallbacks
from pruning_core.hidden_states import micro_batch
from pruning_core.model_files import read_config
from pruning_core.recipe import BASELINE, Recipe, Settings
from pruning_core.text import TEXTS
from tasks.artifact import Artifact
from tasks.assemble import assemble
from tasks.evaluate import evaluate
from tasks.measure import measure
from tasks.prune_block import prune_block
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
        chosen = self.settings.calibration
        wanted = {"sequences": chosen.sequences, "sampling": chosen.sampling, "seed": chosen.seed}
        return self._tokens("calibration", chosen, wanted)

    @cached_property
    def evaluation(self) -> Artifact:
        """Evaluation windows."""
        chosen = self.settings.evaluation
        wanted = {"windows": chosen.windows, "special_tokens": chosen.special_tokens}
        return self._tokens("evaluation", chosen, wanted)

    def model(self, name: str) -> Artifact:
        """The model directory of a variant; the source itself for the baseline."""
        if name == BASELINE:
            return self.source
        recipe = self.settings.recipe(name)
        blocks = self._blocks(recipe)
        inputs = {"source": self.source} | {f"block-{index}": block for index, block in enumerate(blocks)}
        return self.context.run(assemble, {"recipe": recipe.spec}, inputs, f"{name} model")

    def evaluated(self, name: str) -> Artifact:
        """The quality of a variant on the evaluation windows."""
        params = {"batch": self.settings.evaluation.batch, "trust_remote_code": self.trust}
        inputs = {"model": self.model(name), "tokens": self.evaluation}
        if name != BASELINE:
            inputs |= {"source": self.source, "baseline": self.evaluated(BASELINE)}
        return self.context.run(evaluate, params, inputs, f"{name} evaluation")

    def measured(self, name: str) -> Artifact:
        """The speed of a variant on this machine."""
        config = read_config(self.source.path, trust_remote_code=self.trust)
        params = {"machine": machine(), "trust_remote_code": self.trust, **speed_lengths(config)}
        return self.context.run(measure, params, {"model": self.model(name)}, f"{name} speed")

    @cached_property
    def _forwards(self) -> dict[str, Any]:
        """How blocks run during calibration, as params of a step."""
        chosen = self.settings.calibration
        return {
            "batch": micro_batch(chosen.length, chosen.batch),
            "trust_remote_code": self.trust,
            **asdict(self.settings.compute.running()),
            "states": self.settings.compute.states,
        }

    def _tokens(self, role: str, chosen: Any, wanted: dict[str, Any]) -> Artifact:
        documents = TEXTS.build(chosen.text).read(self.context.workspace)
        params = {
            "role": role,
            "text": chosen.text,
            "text_digest": documents.digest,
            "length": chosen.length,
            "trust_remote_code": self.trust,
            **wanted,
        }
        return self.context.run(tokens, params, {"source": self.source}, f"{role} tokens")

    def _blocks(self, recipe: Recipe) -> list[Artifact]:
        blocks: list[Artifact] = []
        ledger: list[dict[str, Any]] = []
        for index in range(self.depth):
            params = {
                "block": index,
                "method": recipe.method_spec,
                "propagate": recipe.propagate if recipe.calibrates else None,
                **self._forwards,
            }
            inputs = {"source": self.source} | self._block_inputs(recipe, index, blocks)
            blocks.append(self.context.run(prune_block, params, inputs, f"{recipe.name} block {index}"))
            if self.enforce:
                # Not a part of the step, whose result is the same whatever is allowed: raising the number goes on here.
                ledger += blocks[-1].facts["ledger"]
                check_fallbacks(ledger, recipe.max_fallbacks)
        return blocks

    def _block_inputs(self, recipe: Recipe, index: int, blocks: list[Artifact]) -> dict[str, Artifact]:
        if not recipe.calibrates:
            return {}
        if recipe.propagate == "dense":
            return {"statistics": self._statistics(index)}
        return {"tokens": self.calibration} | ({"previous": blocks[-1]} if blocks else {})

    def _statistics(self, index: int) -> Artifact:
        params = {"block": index, **self._forwards}
        inputs = {"source": self.source, "tokens": self.calibration}
        return self.context.run(statistics, params, inputs, f"statistics of block {index}")


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
