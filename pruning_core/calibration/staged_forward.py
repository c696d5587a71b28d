"""Forward passes that stop together in front of a layer, so that one pass does the work of several."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from greenlet import getcurrent, greenlet
from torch import Tensor, nn

Arrive = Callable[[int, Any], object]
"""(group index, the group's input for one micro-batch: [batch, tokens, in], or what a stage of experts reads)."""
Hook = Callable[[nn.Module, tuple[Any, ...]], None]


@dataclass(frozen=True)
class InputGroup:
    """Linear layers of a block that read one and the same tensor, so that one Hessian serves all of them.

    While forwards are watched, a stage of experts (`pruning_core.model.experts.Stage`) is a group of its own.
    """

    names: tuple[str, ...]


def input_groups(linears: dict[str, nn.Module], forward: Callable[[], Tensor]) -> list[InputGroup]:
    """The groups in order of execution, found by watching one forward.

    Args:
        linears: name -> module.
        forward: runs the block on a small input. Layers that it does not reach are in no group.
    """
    seen: list[tuple[Tensor, list[str]]] = []

    def watch(name: str) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            for tensor, names in seen:
                if tensor is args[0]:
                    names.append(name)
                    return
            seen.append((args[0], [name]))

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in linears.items()]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return [InputGroup(tuple(names)) for _, names in seen]


@contextmanager
def watching(linears: dict[str, nn.Module], groups: list[InputGroup], arrive: Arrive) -> Iterator[None]:
    """Call `arrive` each time a forward is about to enter the first layer of a group."""

    def hook_for(index: int) -> Hook:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            arrive(index, args[0])

        return hook

    handles = [linears[group.names[0]].register_forward_pre_hook(hook_for(index)) for index, group in enumerate(groups)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_in_stages(
    forwards: list[Callable[[], Tensor]],
    linears: dict[str, nn.Module],
    groups: list[InputGroup],
    arrive: Arrive,
    complete: Callable[[int], None],
    leave: Callable[[int, Tensor], None] | None,
) -> None:
    """Run all micro-batches through a block; none passes a group before `complete` was called for it.

    Each forward is a coroutine that pauses in front of each group. When all have arrived, `complete(group)` may change
    the group's weights, and the forwards go on with the changed ones. That is the true-sequential scheme of the GPTQ
    and SparseGPT codes, which run one more forward per group for it; here every product is computed once. Paused
    forwards hold their live activations: at most residual + input of the group, tokens x (width + in) values.

    Args:
        leave: called with each micro-batch's number and output; None abandons the forwards after the last group.
    """
    scheduler = getcurrent()

    def pause(index: int, inputs: Tensor) -> None:
        arrive(index, inputs)
        scheduler.switch(index)

    runs = [greenlet(forward, parent=scheduler) for forward in forwards]
    with watching(linears, groups, pause):
        for index in range(len(groups)):
            for run in runs:
                reached = run.switch()
                if reached != index:
                    raise RuntimeError(f"a forward reached group {reached} where {index} was due")
            complete(index)
        for position, run in enumerate(runs):
            if leave is None:
                run.throw()
            else:
                leave(position, run.switch())
