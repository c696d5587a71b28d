"""What the branches of a pipeline share: the dense model, windows of tokens, and statistics of its blocks."""

from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch

from pruning_core.calibration.hidden_states import micro_batch
from pruning_core.checkpoint.model_files import read_config
from pruning_core.compress.shares import Matrix, matrices_of
from pruning_core.model.skeleton import Skeleton
from pruning_core.settings.recipe import Settings
from pruning_core.settings.windows import Calibration
from pruning_core.text import TEXTS
from tasks.engine.step import Context
from tasks.steps.source_model import as_artifact, source_model
from tasks.steps.statistics import StatisticsParams, statistics
from tasks.steps.tokens import TokensParams, tokens
from tasks.store.artifact import Artifact


class Inputs:
    """Steps that many variants of one params.yaml have in common.

    Args:
        context: store, workspace and the driver that runs steps.
        settings: a checked params.yaml.
    """

    def __init__(self, context: Context, settings: Settings) -> None:
        self.context = context
        self.settings = settings
        self.trust = settings.trust_remote_code

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
        return self.calibration_windows(self.settings.calibration, "calibration")

    def calibration_windows(self, calibration: Calibration, label: str) -> Artifact:
        """Windows sampled from a text, named `label` for people."""
        sampling = {"sequences": calibration.sequences, "sampling": calibration.sampling, "seed": calibration.seed}
        return self._tokens("calibration", calibration, sampling, label)

    @cached_property
    def evaluation(self) -> Artifact:
        """Evaluation windows."""
        return self.evaluation_windows(self.source, "evaluation")

    def evaluation_windows(self, source: Artifact, label: str) -> Artifact:
        """The windows that the tokenizer of a model makes of the evaluation text, named `label` for people."""
        evaluation = self.settings.evaluation
        windowing = {name: getattr(evaluation, name) for name in ("windows", "special_tokens", "stride", "bos")}
        return self._tokens("evaluation", evaluation, windowing, label, source)

    @cached_property
    def matrices(self) -> tuple[Matrix, ...]:
        """The prunable matrices, read off the model's configuration."""
        config = read_config(self.source.path, trust_remote_code=self.trust)
        return matrices_of(Skeleton(config, torch.float32, self.trust))

    @cached_property
    def on_device(self) -> dict[str, Any]:
        """How models run, as fields of `tasks.steps.running.OnDevice`."""
        return {"trust_remote_code": self.trust, **asdict(self.settings.compute.running())}

    @cached_property
    def batch(self) -> int:
        """Calibration windows per forward."""
        return micro_batch(self.settings.calibration.length, self.settings.calibration.batch)

    @cached_property
    def forwards(self) -> dict[str, Any]:
        """How blocks run during calibration, as fields of `tasks.steps.running.Forwards`."""
        compute = self.settings.compute
        shards = compute.shards if compute.shards > 1 else None
        return {**self.on_device, "batch": self.batch, "states": compute.states, "shards": shards}

    def statistics(self, index: int) -> Artifact:
        """The statistics of the inputs of a block of the dense model."""
        params = StatisticsParams(block=index, **self.forwards)
        inputs = {"source": self.source, "tokens": self.calibration}
        return self.context.run(statistics, params, inputs, f"statistics of block {index}")

    def _tokens(
        self, role: str, section: Any, further: dict[str, Any], label: str, source: Artifact | None = None
    ) -> Artifact:
        documents = TEXTS.build(section.text).read(self.context.workspace)
        params = TokensParams(
            role=role,
            text=section.text,
            text_digest=documents.digest,
            length=section.length,
            trust_remote_code=self.trust,
            **further,
        )
        return self.context.run(tokens, params, {"source": source or self.source}, f"{label} tokens")
