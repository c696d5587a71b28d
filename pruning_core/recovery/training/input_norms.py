"""Norms of the inputs of a model's matrices on some windows."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pruning_core.model.decoder import matrix


@torch.no_grad()
def input_norms(
    model: nn.Module, modules: dict[str, nn.Module], batches: Iterable[Tensor], device: torch.device
) -> dict[str, Tensor]:
    """Matrix name -> [columns] float32, the Euclidean norm of each input over all tokens of the batches.

    A matrix that no token reached (an expert) gets ones: its inputs were not seen.

    Args:
        batches: [windows, length] int64 token ids each.
    """
    squares = {
        name: torch.zeros(matrix(module).shape[1], dtype=torch.float64, device=device)
        for name, module in modules.items()
    }

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            squares[name] += args[0].reshape(-1, squares[name].numel()).double().square().sum(dim=0)

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()]
    try:
        for tokens in batches:
            model(input_ids=tokens.to(device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (one if bool(one.any()) else torch.ones_like(one)).sqrt().float() for name, one in squares.items()}
