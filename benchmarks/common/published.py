"""The published loops in plain torch: SparseGPT (arXiv:2301.00774), Wanda (arXiv:2306.11695), GPTQ (arXiv:2210.17323).

Written from the papers' formulas in the order of work of the published codes: block by block, one sequence per
forward, a Hessian for every layer, Cholesky of the inverse, one column at a time, and a second forward through the
compressed block. It is the measure of what this project's own order of work is worth, and a check on its results.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class SecondMoment:
    """Running H = 2/n sum over sequences of X^T X, rescaled with each sequence as it comes."""

    columns: int
    full: bool
    sequences: int = 0
    value: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.value = torch.zeros((self.columns,) * (2 if self.full else 1))

    def add(self, inputs: Tensor) -> None:
        """Take [sequences, tokens, columns]."""
        count = inputs.shape[0]
        rows = inputs.reshape(-1, self.columns).T
        self.value *= self.sequences / (self.sequences + count)
        self.sequences += count
        if self.full:
            rows = math.sqrt(2 / self.sequences) * rows.float()
            self.value += rows @ rows.T
        else:
            self.value += rows.float().norm(dim=1) ** 2 / self.sequences


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """U, upper triangular, with U^T U the inverse of the damped `hessian`, which is damped in place."""
    diagonal = hessian.diagonal()
    diagonal += damping * diagonal.mean()
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)


def sparsegpt(weight: Tensor, moment: Tensor, *, sparsity: float, block: int, damping: float) -> Tensor:
    """The pruned copy of `weight` [out, in]; `moment` [in, in] is used up."""
    work, upper = _prepared(weight, moment, damping)
    pivots = upper.diagonal()

    def choose(now: Tensor, start: int, stop: int) -> Callable[[Tensor, int], Tensor]:
        score = now.square() / pivots[start:stop].square()
        threshold = score.flatten().sort().values[int(score.numel() * sparsity)]
        gone = score <= threshold
        return lambda column, index: column.masked_fill(gone[:, index], 0.0)

    return _swept(work, upper, block, choose)


def gptq(weight: Tensor, moment: Tensor, *, bits: int, block: int, damping: float) -> Tensor:
    """`weight` [out, in] rounded to symmetric grids of whole rows, columns in the order of their activations."""
    top = 2**bits - 1
    scale = 2 * weight.abs().amax(dim=1) / top
    scale[scale == 0] = 2 / top
    middle = (top + 1) / 2
    diagonal = moment.diagonal()
    order = diagonal.where(diagonal != 0, 1.0).argsort(descending=True)
    work, upper = _prepared(weight[:, order], moment[order][:, order], damping)

    def round_(now: Tensor, start: int, stop: int) -> Callable[[Tensor, int], Tensor]:
        return lambda column, index: scale * (((column / scale).round() + middle).clamp(0, top) - middle)

    return _swept(work, upper, block, round_)[:, order.argsort()]


def wanda(weight: Tensor, moment: Tensor, *, sparsity: float) -> Tensor:
    """The pruned copy of `weight` [out, in]; `moment` [in] holds the mean squared norms of the inputs."""
    score = weight.abs() * moment.sqrt()
    lowest = score.sort(dim=1, stable=True).indices[:, : int(weight.shape[1] * sparsity)]
    return weight.scatter(1, lowest, 0.0)


LOOPS: dict[str, Callable[..., Tensor]] = {"sparsegpt": sparsegpt, "gptq": gptq, "wanda": wanda}


@torch.no_grad()
def compress(model: nn.Module, tokens: Tensor, loop: str, **settings: Any) -> dict[str, Tensor]:
    """Compress every linear layer in the blocks of a Llama, in place.

    Args:
        model: float32, in eval mode.
        tokens: [sequences, length] int64.
        loop: a name in LOOPS; `settings` are its keyword arguments.

    Returns:
        Name of each weight -> compressed weight.
    """
    hidden, arguments = _entering(model, tokens)
    changed: dict[str, Tensor] = {}
    for index, block in enumerate(model.model.layers):
        linears = {name: module for name, module in block.named_modules() if isinstance(module, nn.Linear)}
        moments = {name: SecondMoment(module.in_features, loop != "wanda") for name, module in linears.items()}
        handles = [module.register_forward_hook(_watch(moments[name])) for name, module in linears.items()]
        for one in hidden:
            block(one, **arguments)
        for handle in handles:
            handle.remove()
        for name, module in linears.items():
            module.weight.data = LOOPS[loop](module.weight.data, moments.pop(name).value, **settings)
            changed[f"model.layers.{index}.{name}.weight"] = module.weight.data
        hidden = [_first(block(one, **arguments)) for one in hidden]
    return changed


def _prepared(weight: Tensor, moment: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    dead = moment.diagonal() == 0
    moment[dead, dead] = 1.0
    work = weight.clone()
    work[:, dead] = 0.0
    return work, inverse_factor(moment, damping)


def _swept(work: Tensor, upper: Tensor, block: int, enter: Callable[..., Callable[[Tensor, int], Tensor]]) -> Tensor:
    """Fix the columns of `work` from left to right and push each error into the columns to its right.

    `enter(columns, start, stop)` is asked once per block and gives what fixes one column.
    """
    columns = work.shape[1]
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        now, inner = work[:, start:stop].clone(), upper[start:stop, start:stop]
        fixed, errors = torch.zeros_like(now), torch.zeros_like(now)
        fix = enter(now, start, stop)
        for index in range(stop - start):
            column = now[:, index]
            fixed[:, index] = fix(column, index)
            errors[:, index] = (column - fixed[:, index]) / inner[index, index]
            now[:, index:] -= errors[:, index : index + 1] @ inner[index : index + 1, index:]
        work[:, start:stop] = fixed
        work[:, stop:] -= errors @ upper[start:stop, stop:]
    return work


class _Reached(Exception):
    """Raised to leave a forward once the first block is reached."""


def _entering(model: nn.Module, tokens: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
    """What enters block 0 for each sequence, and the keyword arguments of the last call."""
    hidden: list[Tensor] = []
    arguments: dict[str, Any] = {}

    def stop(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        hidden.append(args[0])
        arguments.update(kwargs)
        raise _Reached

    handle = model.model.layers[0].register_forward_pre_hook(stop, with_kwargs=True)
    for sequence in tokens:
        try:
            model(input_ids=sequence[None], use_cache=False)
        except _Reached:
            continue
    handle.remove()
    return hidden, arguments


def _watch(moment: SecondMoment) -> Callable[..., None]:
    return lambda module, args, output: moment.add(args[0])


def _first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
