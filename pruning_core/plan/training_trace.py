"""Training counted without data: the code that trains runs on a model whose tensors have shapes and no content.

What autograd keeps of a forward, what a backward makes of it and what both compute is counted as it happens, so that
every method and architecture is counted as it is. The products of bfloat16 are counted as those of float32.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from pruning_core.errors import required
from pruning_core.model.coupled_groups import Site
from pruning_core.model.decoder import matrix
from pruning_core.model.skeleton import Skeleton
from pruning_core.plan.forward_trace import Segment, counting
from pruning_core.recovery import Recovery
from pruning_core.recovery.block_reconstruction import BlockReconstruction
from pruning_core.recovery.training.block_objective import BlockObjective, Streams
from pruning_core.recovery.training.language_objective import LanguageObjective
from pruning_core.recovery.training.setup import freeze, trainable
from pruning_core.recovery.training.trainable_model import TrainableModel
from pruning_core.structured.gradients import gradient_moments


@dataclass(frozen=True)
class TrainingPart:
    """One micro-batch of the training of one part of a model, or of all of it."""

    trained: int
    """Numbers that change."""
    learn: Segment
    """Forward and backward; the gradients are among what is held."""
    watch: Segment
    """Forward of a validation."""
    target: Segment = field(default_factory=Segment)
    """What is to be learnt, once for every window; of blocks only."""
    leave: Segment = field(default_factory=Segment)
    """The way on to what is trained next; of blocks only."""


class WholeModelRecovery(Recovery, Protocol):
    """A recovery that trains the model as a whole."""

    def objective(self, model: TrainableModel) -> AbstractContextManager[LanguageObjective]:
        """What is trained, and what for."""
        ...


def forward_of(skeleton: Skeleton, windows: int, length: int) -> Segment:
    """`windows` of `length` tokens through the whole model, head included."""
    tokens = _tokens(windows, length)
    return _counted([skeleton.model], lambda: skeleton.model(input_ids=tokens.to("meta"), use_cache=False))


def gradients_of(skeleton: Skeleton, sites: tuple[Site, ...], length: int) -> Segment:
    """The moments of the gradients of two windows: the second comes while the first one's are held.

    Args:
        sites: as `pruning_core.structured.gradients.gradient_moments` takes them.
    """
    model = skeleton.model.requires_grad_(False)
    return _counted([model], lambda: gradient_moments(model, sites, _tokens(2, length)), gradients=True)


def trainable_skeleton(
    skeleton: Skeleton, teacher: Skeleton | None, masked: bool, windows: int, validation: int, length: int
) -> TrainableModel:
    """The model that a recovery trains, without content.

    Args:
        masked: whether the model has masks.
        windows, validation: how many windows are trained on and how many go through at once in a validation.
    """
    skeleton.model.requires_grad_(False)
    model = TrainableModel(skeleton, {}, _tokens(windows, length), _tokens(validation, length), Path(), teacher=teacher)
    if masked:
        for name, module in model.matrices().items():
            model.masks[name] = torch.empty(matrix(module).shape, dtype=torch.bool, device="meta")
    return model


def training_parts(method: Recovery, model: TrainableModel, micro: int) -> tuple[TrainingPart, ...]:
    """What a method does with a micro-batch of `micro` windows, part by part of the model.

    Raises:
        InputError: the method cannot work on such a model.
    """
    if isinstance(method, BlockReconstruction):
        return tuple(_blocks(method, model, micro))
    return (_language(cast("WholeModelRecovery", method), model, micro),)


def _language(method: WholeModelRecovery, model: TrainableModel, micro: int) -> TrainingPart:
    with ExitStack() as stack:
        with torch.device("meta"):
            objective = stack.enter_context(method.objective(model))
        trained = list(objective.parameters.values())
        models = [model.decoder.model, *([model.teacher.model] if model.teacher else [])]

        def learn() -> None:
            _hold_gradients(trained, method.batch > micro)
            objective.loss(torch.arange(micro)).backward()

        learnt = _counted(models, learn, gradients=True)
        for parameter in trained:
            parameter.grad = None
        return TrainingPart(sum(one.numel() for one in trained), learnt, _counted(models, objective.held_out))


def _blocks(method: BlockReconstruction, model: TrainableModel, micro: int) -> Iterator[TrainingPart]:
    decoder, teacher = model.decoder, required(model.teacher, "the dense model")
    tokens, rows = model.tokens[:micro], torch.arange(micro)
    with counting([]):
        streams = Streams.at_entry(decoder, teacher, tokens, micro)
        # The first look at how blocks are called runs one.
        for one in (decoder, teacher):
            one.calls(tokens)
    models = [decoder.model, teacher.model]
    for index in range(len(decoder)):
        parts = list(method.parts_of(model, index))
        for _, watched, modules in parts:
            parameters = trainable(model, modules)
            entered = [streams.states, streams.dense_states]
            objectives: list[BlockObjective] = []
            make = partial(_add_objective, objectives, parameters, streams, index, watched)
            learn = partial(_step, objectives, parameters, rows, method.batch > micro)
            target = _counted(models, make, entered)
            held = [*entered, *objectives[0].targets.values()]
            learnt = _counted(models, learn, held, gradients=True)
            watch = _counted(models, objectives[0].held_out, held)
            freeze(parameters)
            last = modules is parts[-1][2]
            leave = _counted(models, partial(streams.advance, index), held) if last else Segment()
            yield TrainingPart(sum(one.numel() for one in parameters.values()), learnt, watch, target, leave)


def _add_objective(
    objectives: list[BlockObjective],
    parameters: dict[str, nn.Parameter],
    streams: Streams,
    index: int,
    watched: str | None,
) -> None:
    objectives.append(BlockObjective(parameters, streams, streams, index, watched, {}))


def _step(objectives: list[BlockObjective], parameters: dict[str, nn.Parameter], rows: Tensor, repeated: bool) -> None:
    _hold_gradients(list(parameters.values()), repeated)
    objectives[0].loss(rows).backward()


def _hold_gradients(parameters: list[nn.Parameter], repeated: bool) -> None:
    """Where a step has several micro-batches, all but the first find gradients there."""
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter) if repeated else None


def _tokens(windows: int, length: int) -> Tensor:
    return torch.zeros(1, 1, dtype=torch.int64).expand(windows, length)


def _counted(
    models: Sequence[nn.Module], act: Callable[[], object], outside: list[Tensor] | None = None, gradients: bool = False
) -> Segment:
    """What `act` takes beside the models and the tensors `outside`."""
    held = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    with counting([*held, *(outside or [])], gradients) as ledger:
        act()
    return ledger.segments[0]
