"""One micro-batch through one block on the meta device: what it holds at each stop, and how much it computes."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
# Only the formulas of torch's counter: while it runs, its hooks hold gradients longer than training alone does.
FORMULAS = FlopCounterMode(display=False).flop_registry
BATCHED = (aten.bmm, aten.baddbmm)


@dataclass
class Segment:
    """The part of a forward between two stops."""

    peak: int = 0
    """Most bytes that the micro-batch held at any moment, beside the states that entered the block."""
    live: int = 0
    """Bytes that it holds at the end."""
    moved: int = 0
    """Bytes of all results that were written."""
    products: int = 0
    """Floating point operations of linear layers; a multiplication and an addition are two."""
    attention: int = 0
    """Floating point operations of attention and of other products of activations with each other."""


class Ledger(TorchDispatchMode):
    """Counts what the operations below it allocate, write and compute.

    Args:
        outside: tensors that were there before, and are not counted.
    """

    def __init__(self, outside: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # By address of the storage: a view of a weight is no new memory.
        self._known = {tensor.untyped_storage()._cdata for tensor in outside}
        self._outside = outside
        self.segments: list[Segment] = [Segment()]

    def stop(self) -> None:
        """End a segment."""
        live = self.segments[-1].live
        self.segments.append(Segment(peak=live, live=live))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default:
            # Masks ask whether all tokens count and whether all sequences are whole: they do and are.
            return True
        out = func(*args, **(kwargs or {}))
        self._count(func.overloadpacket, out, args, kwargs or {})
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._enter(tensor)
        return out

    def _count(self, operation: Any, out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if operation in BATCHED:
            self.segments[-1].attention += FORMULAS[operation](*args, **kwargs, out_val=out)
        elif operation in FORMULAS:
            self.segments[-1].products += FORMULAS[operation](*args, **kwargs, out_val=out)

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        segment, size = self.segments[-1], storage.nbytes()
        segment.live += size
        segment.moved += size
        segment.peak = max(segment.peak, segment.live)
        weakref.finalize(storage, self._leave, storage._cdata, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.segments[-1].live -= size


@dataclass
class FusedAttention(TorchFunctionMode):
    """Stands in for scaled dot product attention, whose fused kernels hold no scores; the meta device has none."""

    ledger: Ledger = field(repr=False)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = (*args, *(kwargs.get(name) for name in ("query", "key", "value")[len(args) :]))[:3]
        # Masked by order, a kernel leaves the later half out.
        parts = 2 if kwargs.get("is_causal") else 1
        return _Attention.apply(query, key, value, self.ledger, parts)  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, ledger: Ledger, parts: int) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        # Kernels keep the logarithm of each row's sum beside their output.
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        ctx.ledger, ctx.parts = ledger, parts
        ledger.segments[-1].attention += sdpa_flop_count(query.shape, key.shape, value.shape) // parts
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        operations = sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)
        ctx.ledger.segments[-1].attention += operations // ctx.parts
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None, None


@contextmanager
def counting(outside: list[Tensor], gradients: bool = False) -> Iterator[Ledger]:
    """A ledger of everything that runs inside the block.

    Args:
        outside: as in `Ledger`.
        gradients: whether results remember what they were made of.
    """
    ledger = Ledger(outside)
    with torch.set_grad_enabled(gradients), FusedAttention(ledger), ledger:
        yield ledger


def segments(block: nn.Module, stops: list[nn.Module], run: Any, outside: list[Tensor]) -> list[Segment]:
    """The forward `run` of a block cut in front of each of the modules `stops`, in their order.

    Returns:
        one more segment than stops: the last one ends with the block.
    """
    held = [*block.parameters(), *block.buffers(), *outside]
    with counting(held) as ledger:
        handles = [stop.register_forward_pre_hook(lambda module, args: ledger.stop()) for stop in stops]
        try:
            run()
        finally:
            for handle in handles:
                handle.remove()
    return ledger.segments
