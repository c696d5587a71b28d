"""Training counted without data: the code that trains runs on a model whose tensors have shapes and no content.

What autograd keeps of a forward, what a backward makes of it and what both compute is counted as it happens, so that
every method and architecture is counted as it is. The products of bfloat16 are counted as those of float32.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from pruning_core.model.coupled_groups import Site
from pruning_core.model.skeleton import Skeleton
from pruning_core.plan.forward_trace import Segment, counting
from pruning_core.recovery import Recovery
from pruning_core.recovery.block_reconstruction import BlockReconstruction
from pruning_core.recovery.training.block_objective import BlockObjective, Streams
from pruning_core.recovery.training.setup import freeze, trainable
from pruning_core.recovery.training.trainable_model import TrainableModel
from pruning_core.structured.gradients import gradient_moments


@dataclass(frozen=True)
class Lesson:
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


def subject_of(
    skeleton: Skeleton, teacher: Skeleton | None, masked: bool, windows: int, validation: int, length: int
) -> TrainableModel:
    """What a recovery works on, without content.

    Args:
        masked: whether the model has masks.
        windows, validation: how many windows are trained on and how many go through at once in a validation.
    """
    skeleton.model.requires_grad_(False)
    subject = TrainableModel(
        skeleton, {}, _tokens(windows, length), _tokens(validation, length), Path(), teacher=teacher
    )
    if masked:
        for name, module in subject.matrices().items():
            shape = module.weight.shape[::-1] if hasattr(module, "nx") else module.weight.shape
            subject.masks[name] = torch.empty(shape, dtype=torch.bool, device="meta")
    return subject


def lessons_of(method: Recovery, subject: TrainableModel, micro: int) -> tuple[Lesson, ...]:
    """What a method does with a micro-batch of `micro` windows, part by part of the model.

    Raises:
        InputError: the method cannot work on such a model.
    """
    if isinstance(method, BlockReconstruction):
        return tuple(_blocks(method, subject, micro))
    return (_language(method, subject, micro),)


def _language(method: Recovery, subject: TrainableModel, micro: int) -> Lesson:
    with ExitStack() as stack:
        with torch.device("meta"):
            objective = stack.enter_context(method.objective(subject))
        trained = list(objective.parameters.values())
        models = [subject.decoder.model, *([subject.teacher.model] if subject.teacher else [])]

        def learn() -> None:
            _hold_gradients(trained, method.batch > micro)
            objective.loss(torch.arange(micro)).backward()

        learnt = _counted(models, learn, gradients=True)
        for parameter in trained:
            parameter.grad = None
        return Lesson(sum(one.numel() for one in trained), learnt, _counted(models, objective.held_out))


def _blocks(method: BlockReconstruction, subject: TrainableModel, micro: int) -> Iterator[Lesson]:
    decoder, teacher = subject.decoder, subject.teacher
    tokens, rows = subject.tokens[:micro], torch.arange(micro)
    with counting([]):
        streams = Streams.at_entry(decoder, teacher, tokens, micro)
        # The first look at how blocks are called runs one.
        for one in (decoder, teacher):
            one.calls(tokens)
    models = [decoder.model, teacher.model]
    for index in range(len(decoder)):
        parts = list(method.parts_of(subject, index))
        for _, watched, modules in parts:
            parameters = trainable(subject, modules)
            entered = [streams.states, streams.dense_states]
            made: list[BlockObjective] = []

            def make(made=made, parameters=parameters, index=index, watched=watched) -> None:
                made.append(BlockObjective(parameters, streams, streams, index, watched, {}))

            def learn(made=made, parameters=parameters) -> None:
                _hold_gradients(list(parameters.values()), method.batch > micro)
                made[0].loss(rows).backward()

            target = _counted(models, make, entered)
            held = [*entered, *made[0].targets.values()]
            learnt = _counted(models, learn, held, gradients=True)
            watch = _counted(models, made[0].held_out, held)
            freeze(parameters)
            last = modules is parts[-1][2]
            leave = _counted(models, lambda index=index: streams.advance(index), held) if last else Segment()
            yield Lesson(sum(one.numel() for one in parameters.values()), learnt, watch, target, leave)


def _hold_gradients(parameters: list[nn.Parameter], repeated: bool) -> None:
    """Where a step has several micro-batches, all but the first find gradients there."""
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter) if repeated else None


def _tokens(windows: int, length: int) -> Tensor:
    return torch.zeros(1, 1, dtype=torch.int64).expand(windows, length)


def _counted(
    models: list[nn.Module], act: Callable[[], object], outside: list[Tensor] | None = None, gradients: bool = False
) -> Segment:
    """What `act` takes beside the models and the tensors `outside`."""
    known = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    with counting([*known, *(outside or [])], gradients) as ledger:
        act()
    return ledger.segments[0]
