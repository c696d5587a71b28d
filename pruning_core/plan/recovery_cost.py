"""Cost of a recovery: training, the validations on the way, and the checkpoints that it could go on from."""

import math
from dataclasses import dataclass, field

import torch
from transformers import PretrainedConfig

from pruning_core.checkpoint.shard_files import SHARD_BYTES
from pruning_core.errors import required
from pruning_core.evaluation.forward import CHUNK_NUMBERS, LOGITS_BYTES
from pruning_core.model.skeleton import Skeleton
from pruning_core.plan.disk import FLOAT
from pruning_core.plan.flops import Work
from pruning_core.plan.forward_trace import Segment
from pruning_core.plan.memory import Memory, placed
from pruning_core.plan.model_shape import ModelShape, model_shape
from pruning_core.plan.training_trace import TrainingPart, forward_of, trainable_skeleton, training_parts
from pruning_core.recovery import Recovery
from pruning_core.settings.recipe import Recipe, Settings
from pruning_core.settings.recovery import Recovering, RecoveryData

ADAM = 2
"""Running means that the optimizer keeps of every number that is trained."""
INPUT_NORMS = 32
"""Windows that a score of `iterative_magnitude` looks at where nothing is said."""


@dataclass(frozen=True)
class RecoveryCost:
    """The cost of one recovery.

    Args:
        recovering: what the recipe says.
        model: shape of the model that is trained.
        dense: that of the model it came from.
        parts: of `pruning_core.plan.training_trace`.
        forward: of a micro-batch through the trained model, dense_forward through the other one; head included.
        micro: windows of a micro-batch.
        length: tokens of a window.
        masked: whether the trained model has masks.
        evaluated: windows per forward of the validations before and after.
        stored: bytes per weight in the checkpoint.
        halved: whether products run in bfloat16.
        device: cpu or cuda.
    """

    recovering: Recovering
    model: ModelShape
    dense: ModelShape
    parts: tuple[TrainingPart, ...] = field(repr=False)
    forward: Segment = field(repr=False)
    dense_forward: Segment = field(repr=False)
    micro: int
    length: int
    masked: bool
    evaluated: int
    stored: float
    halved: bool
    device: str

    def phases(self) -> dict[str, Memory]:
        """The worst moments of the validations before and after, and of the training."""
        return {"validation": self._validating(), "recovery": self._training()}

    def work(self) -> Work:
        """Of training and of all validations."""
        windows = self._data.validation / self.micro
        work = (_work(self.forward) * 2 + _work(self.dense_forward)) * windows
        for part in self.parts:
            seen = (self._data.sequences + self._data.validation) / self.micro
            work += _work(part.learn) * (self._steps * self._method.batch / self.micro)
            work += _work(part.watch) * (self._points * windows)
            # Of training and of validation windows alike.
            work += _work(part.target) * (seen / 2) + _work(part.leave) * seen
            work += Work(moved=(1 + ADAM) * FLOAT * part.trained * self._steps)
        return work + self._scoring()

    @property
    def checkpoints(self) -> int:
        """Most bytes of checkpoints at once: the last two of each part that is trained, and one that is written."""
        whole = (self._steps - 1) // self.recovering.checkpoint_every
        kept, more = 0, 0
        for part in self.parts:
            ever = self.model.weights if self._rounds else 0
            # The last one of a run holds what was trained alone.
            last = FLOAT * part.trained + ever
            full = last + self._moments(part)
            most = 3 * full if whole >= 3 else whole * full + last
            kept += min(whole, 1) * full + last
            more = max(more, most - min(whole, 1) * full - last)
        return kept + more

    @property
    def _method(self) -> Recovery:
        return self.recovering.method

    @property
    def _data(self) -> RecoveryData:
        return self.recovering.data

    @property
    def _steps(self) -> int:
        return self._method.total(self._data.sequences)

    @property
    def _points(self) -> int:
        """Of the loss curve."""
        return 1 + math.ceil(self._steps / self._method.validate_every)

    @property
    def grows(self) -> bool:
        """Whether masks grow."""
        return self._rounds > 0

    @property
    def _rounds(self) -> int:
        rounds: int = getattr(self._method, "rounds", 0)
        return rounds

    def _scoring(self) -> Work:
        if getattr(self._method, "score", None) != "wanda":
            return Work()
        scored: int | None = getattr(self._method, "scored", None)
        windows = min(scored or INPUT_NORMS, self._data.sequences)
        return _work(self.forward) * (self._rounds * windows / self.micro)

    @property
    def _models(self) -> int:
        return FLOAT * (self.model.parameters + (self.dense.parameters if self._method.needs_teacher else 0))

    @property
    def _masks(self) -> int:
        return self.model.weights if self.masked or self._rounds else 0

    @property
    def _windows(self) -> int:
        """Bytes of the windows' token ids."""
        return 8 * (self._data.sequences + self._data.validation) * self.length

    @property
    def _chunk(self) -> int:
        """A piece of a window's logits while its loss is taken."""
        return FLOAT * min(CHUNK_NUMBERS, self.length * self.model.vocabulary)

    def _validating(self) -> Memory:
        """The model and the dense one, whose loss is told beside it, with the logits of a batch."""
        row = FLOAT * self.length * self.model.vocabulary
        batch = max(1, min(self.evaluated, self._data.validation, LOGITS_BYTES // row))
        peak = max(self.forward.peak, self.dense_forward.peak) * batch / self.micro + 2 * self._chunk
        models = FLOAT * (self.model.parameters + self.dense.parameters)
        return self._placed(models + peak, self._masks)

    def _training(self) -> Memory:
        worst = max(self._learning(part) for part in self.parts)
        # A casted copy of every weight waits for the backward.
        casts = self.model.parameters * 2 if self.halved else 0
        written = min(SHARD_BYTES, self.model.parameters * self.stored)
        written += self.model.parameters * self.stored if self.stored < FLOAT else 0
        on_device = max(worst + casts, self._growing(), 0 if self.device == "cuda" else written)
        on_host: float = self._masks
        if self.device == "cuda":
            on_device += self._masks
            on_host += max(written, max(self._moments(part) + FLOAT * part.trained for part in self.parts))
        return self._placed(self._models + on_device, on_host)

    def _learning(self, part: TrainingPart) -> float:
        state = FLOAT * self.length * self.model.width
        seen = state * (self._data.sequences + self._data.validation)
        moments = self._moments(part)
        if not part.target.moved:
            return moments + max(part.learn.peak, part.watch.peak + self._chunk)
        # Inputs of both models and the targets of all windows; on the way on also the outputs of both, one of them
        # in parts and as a whole.
        leaving = 3 * state * self._data.sequences + part.leave.peak if part.leave.moved else 0
        return 3 * seen + max(moments + part.learn.peak, leaving, state * 2 * self._data.sequences)

    def _moments(self, part: TrainingPart) -> int:
        kept = ADAM + (self._method.keep == "best")
        return FLOAT * kept * part.trained

    def _growing(self) -> float:
        """Where masks grow: the new ones, the scores of all matrices, and the order of the largest one's."""
        if not self._rounds:
            return 0
        order = 30 * max(group.largest for block in self.model.blocks for group in block.groups)
        return self._moments(self.parts[0]) + (1 + FLOAT) * self.model.weights + order

    def _placed(self, on_device: float, on_host: float) -> Memory:
        return placed(self.device, on_device, on_host + self._windows + 2 * self.stored * self.model.largest)


def recovery_cost(
    config: PretrainedConfig, trained: PretrainedConfig, recipe: Recipe, settings: Settings, stored: float
) -> RecoveryCost:
    """The cost of a variant's recovery.

    Args:
        config: of the dense model.
        trained: of the model that is trained.

    Raises:
        InputError: the recovery cannot work on such a model, or is shorter than its warm-up.
    """
    recovering = required(recipe.recovery, f"the recovery of {recipe.name}")
    running, trust = settings.compute.running(), settings.trust_remote_code
    method, data = recovering.method, recovering.data
    method.total(data.sequences)
    length = data.length or settings.calibration.length
    micro = method.windows_per_forward(length)
    # A checkpoint without masks of its own may hold the zeros that masked_lora asks for.
    masked = recipe.structured is None and (recipe.method is not None or method.name == "masked_lora")
    compressed, dense = (Skeleton(one, torch.float32, trust) for one in (trained, config))
    forward = forward_of(compressed, micro, length)
    dense_forward = forward if trained is config else forward_of(dense, micro, length)
    held = masked or hasattr(method, "rounds")
    teacher = dense if method.needs_teacher else None
    model = trainable_skeleton(compressed, teacher, held, data.sequences, micro, length)
    return RecoveryCost(
        recovering,
        model_shape(trained, 1, length, torch.float32, trust),
        model_shape(config, 1, length, torch.float32, trust),
        training_parts(method, model, micro),
        forward,
        dense_forward,
        micro,
        length,
        masked,
        settings.evaluation.batch,
        stored,
        running.dtype != "float32",
        running.device,
    )


def _work(segment: Segment) -> Work:
    return Work(segment.products, segment.attention, moved=segment.moved)
