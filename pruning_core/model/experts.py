"""Mixtures of experts run unfused: every matrix of every expert is a layer of its own, as most checkpoints store it.

transformers keeps the experts of a layer in two three-dimensional parameters and runs them expert by expert. Here the
same sums are made in two stages, all experts through their gate and up matrices, then all through their down matrices,
so that calibration can stop in front of either.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from transformers.integrations.moe import use_experts_implementation
from transformers.pytorch_utils import Conv1D

from pruning_core.errors import InputError

FUSED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""Parameter of a fused module [experts, rows, columns] -> the matrices that share its rows, in their order."""


@dataclass(frozen=True)
class Routed:
    """What the experts of a layer read at one of their two stages, for one micro-batch."""

    own: Callable[[int], Tensor] = field(repr=False)
    """Expert -> [its tokens, in]; an expert without a token gets [0, in]."""
    every: Callable[[int], Tensor] = field(repr=False)
    """Expert -> [all tokens of the layer, in]: what it would read if every token were routed to it."""


class Stage(nn.Module):
    """Passes its input on; whoever watches it watches the matrices behind it in all experts at once.

    It is entered once per forward, also where an expert gets no token and none of its matrices runs.

    Args:
        matrices: their names inside an expert.
        experts: how many.
        in_features: inputs of the matrices.
        alike: whether all experts would read the same if every token were routed to all of them.
    """

    def __init__(self, matrices: tuple[str, ...], experts: int, in_features: int, alike: bool) -> None:
        super().__init__()
        self.matrices = matrices
        self.experts = experts
        self.in_features = in_features
        self.alike = alike

    def forward(self, routed: Routed) -> Routed:
        return routed

    def names(self, stage: str) -> list[tuple[str, ...]]:
        """Full names of the matrices of each expert, `stage` being the full name of this stage."""
        layer = stage.rpartition(".")[0]
        return [tuple(f"{layer}.{expert}.{matrix}" for matrix in self.matrices) for expert in range(self.experts)]


class Expert(nn.Module):
    """down(act(gate(x)) * up(x)); `Experts` makes the sums."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False, device="meta")
        self.up_proj = nn.Linear(width, inner, bias=False, device="meta")
        self.down_proj = nn.Linear(inner, width, bias=False, device="meta")


class Experts(nn.Module):
    """The experts of a layer, modules "0", "1", ...: takes and returns what transformers' fused modules do.

    Args:
        fused: the module to stand in for, on the meta device; gives sizes and activation.
    """

    def __init__(self, fused: nn.Module) -> None:
        super().__init__()
        self.count, self.width, self.inner = fused.get_parameter("down_proj").shape
        self.act_fn = cast("Callable[[Tensor], Tensor]", fused.act_fn)
        for expert in range(self.count):
            self.add_module(str(expert), Expert(self.width, self.inner))
        self.entering = Stage(FUSED["gate_up_proj"], self.count, self.width, alike=True)
        self.leaving = Stage(FUSED["down_proj"], self.count, self.inner, alike=False)

    def forward(self, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """[tokens, width] for hidden [tokens, width], the experts of each token and their weights [tokens, k]."""
        # Ordered by choice, then token, as transformers does: each sum below gets its terms in the same order.
        by_choice = top_k_index.T
        routes = [torch.where(by_choice == expert) for expert in range(self.count)]
        self.entering(Routed(lambda expert: hidden[routes[expert][1]], lambda expert: hidden))
        inner = [self._inner(expert, hidden[token]) for expert, (_, token) in enumerate(routes)]
        self.leaving(Routed(lambda expert: inner[expert], lambda expert: self._inner(expert, hidden)))
        out = torch.zeros_like(hidden)
        for expert, (choice, token) in enumerate(routes):
            if len(token):
                share = top_k_weights[token, choice, None]
                out.index_add_(0, token, (self._of(expert).down_proj(inner[expert]) * share).to(out.dtype))
        return out

    def _inner(self, expert: int, hidden: Tensor) -> Tensor:
        """[tokens, inner]: what the expert's down matrix reads."""
        one = self._of(expert)
        gate: Tensor = one.gate_proj(hidden)
        up: Tensor = one.up_proj(hidden)
        return self.act_fn(gate) * up

    def _of(self, expert: int) -> Expert:
        return cast("Expert", self.get_submodule(str(expert)))


def fused_experts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(full name, module) of every module that `Experts` can stand in for."""
    for name, module in model.named_modules():
        if _is_plain(module):
            yield name, module


def unfuse(model: nn.Module) -> None:
    """Put `Experts` into the places of the model's fused modules.

    Raises:
        InputError: there are experts of another kind.
    """
    for name, module in list(fused_experts(model)):
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, Experts(module))
    for name, _ in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        if "experts" in name.split(".") and not isinstance(owner, nn.Linear | Conv1D):
            raise InputError(
                f"the experts of {type(model).__name__} ({type(owner).__name__}) are not made of a gate, an up and a "
                "down matrix without biases; of the mixtures of experts those like Mixtral, Qwen-MoE and OLMoE "
                "can be compressed"
            )


def routing(block: nn.Module) -> set[nn.Module]:
    """The linear layers of a block that decide where tokens go: one output per expert, or a single one."""
    routers: set[nn.Module] = set()
    for name, experts in block.named_modules():
        if isinstance(experts, Experts):
            beside = block.get_submodule(name.rpartition(".")[0]).modules()
            routers |= {m for m in beside if isinstance(m, nn.Linear) and m.out_features in (1, experts.count)}
            # A matrix of an expert may have as many outputs as there are experts.
            routers -= set(experts.modules())
    return routers


def in_stages(modules: dict[str, nn.Module], linears: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Of `modules`, in their order: the stages of experts, and those of `linears` that are in no expert."""
    stages = {name: module for name, module in modules.items() if isinstance(module, Stage)}
    inside = {matrix for name, stage in stages.items() for matrices in stage.names(name) for matrix in matrices}
    return {
        name: module for name, module in modules.items() if name in stages or (name in linears and name not in inside)
    }


def _is_plain(module: nn.Module) -> bool:
    """Gate and up stacked by rows, no biases, act(gate) * up: the layout that most of transformers' mixtures share."""
    parameters = dict(module.named_parameters(recurse=False))
    if parameters.keys() != FUSED.keys() or {p.dim() for p in parameters.values()} != {3}:
        return False
    # A class that gates otherwise (clamps, another product) brings its own method for it.
    gate = getattr(type(module), "_apply_gate", None)
    return bool(
        gate is not None
        and gate.__module__ == use_experts_implementation.__module__
        and module.has_gate
        and module.is_concatenated
        and not (module.is_transposed or module.has_bias or module.has_post_expert_norm)
    )
