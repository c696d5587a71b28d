"""Reconstruction: the matrices that read the surviving groups are refitted, block after block."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pydantic.dataclasses
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pruning_core.calibration.hidden_states import HiddenStates, micro_batch
from pruning_core.errors import InputError
from pruning_core.model.coupled_groups import Site
from pruning_core.model.decoder import Decoder, matrix
from pruning_core.progress import Progress, ignore_progress
from pruning_core.registry import STRICT
from pruning_core.structured.kept_groups import KeptGroups
from pruning_core.structured.least_squares import Moments, Refit, refit, relative_error
from pruning_core.structured.scoring_inputs import loaded
from pruning_core.structured.surgery import Replacements, kept_slices, mask_groups


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Reconstruction:
    """How consumers are refitted.

    form: static: to the dense model's outputs, from its own inputs; absorbing: from what the pruned blocks before hand
        over, so that a matrix makes up for the errors of those before it; bias: the survivors stay, and a bias gives
        back the mean of what went, as FLAP does (arXiv:2312.11983).
    ridges: shares of the mean square input, the best of which on held-out windows is taken for each matrix.
    held_out: share of the windows that choose the ridge and are not solved on.
    """

    form: Literal["static", "absorbing", "bias"] = "static"
    ridges: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = field(
        default_factory=lambda: [1e-4, 1e-3, 1e-2, 1e-1]
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @torch.no_grad()
    def run(
        self,
        decoder: Decoder,
        sites: Sequence[Site],
        plan: KeptGroups,
        windows: Tensor,
        batch: int | None = None,
        progress: Progress = ignore_progress,
    ) -> tuple[Replacements, list[dict[str, Any]]]:
        """What surgery is to write for the consumers, and what is known of each consumer.

        Args:
            decoder: the dense model; nothing of it changes.
            windows: calibration windows [sequences, tokens] int64.
            batch: sequences per forward.

        Raises:
            InputError: fewer than two windows.
            ComputationError: a system that cannot be solved, or states that are not finite.
        """
        aside = max(1, round(self.held_out * len(windows)))
        if len(windows) <= aside:
            raise InputError(f"least squares need windows to solve on and windows aside; {len(windows)} are too few")
        pairs = [_States.of(decoder, part, batch, self.form) for part in (windows[:-aside], windows[-aside:])]
        replacements, refits = Replacements(), []
        if self.form == "bias":
            replacements.new_biases = _without_bias(decoder, sites)
        for index in range(len(decoder)):
            with loaded(decoder, index) as dense:
                pruned = copy.deepcopy(dense)
                prefix = f"{decoder.block_prefix}.{index}"
                block_sites = [site for site in sites if site.block == index]
                for site in block_sites:
                    mask_groups(pruned, prefix, site, plan.removed(site))
                for site in sorted(block_sites, key=lambda site: site.family == "mlp"):
                    moments = [pair.moments(decoder, site, plan, dense, pruned) for pair in pairs]
                    refits.append(self._refit(decoder, site, plan, pruned, moments, replacements))
                if index + 1 < len(decoder):
                    for pair in pairs:
                        pair.advance(decoder, index, dense, pruned)
            progress(index + 1, len(decoder))
        return replacements, refits

    def _refit(
        self,
        decoder: Decoder,
        site: Site,
        plan: KeptGroups,
        pruned: nn.Module,
        moments: list[Moments],
        into: Replacements,
    ) -> dict[str, Any]:
        name = site.consumer.matrix
        linear = decoder.model.get_submodule(name)
        weight, kept = matrix(linear), kept_slices(site, plan)[site.consumer.name][1].to(decoder.device)
        best = self._best(weight, kept, moments, linear.bias is not None)
        # Later blocks are solved for what is stored.
        dtype = decoder.stored_dtype(name)
        stored_weight = best.weight.to(dtype).to(weight.dtype)
        narrow = pruned.get_submodule(name.removeprefix(f"{decoder.block_prefix}.{site.block}."))
        matrix(narrow)[:, kept] = stored_weight
        into.parameters[f"{name}.weight"] = (
            (stored_weight.T if isinstance(linear, Conv1D) else stored_weight).contiguous().cpu()
        )
        if best.shift is not None:
            before = linear.get_parameter("bias").double() if linear.bias is not None else torch.zeros_like(best.shift)
            bias = (before + best.shift).to(dtype).to(weight.dtype)
            narrow.bias = nn.Parameter(bias, requires_grad=False)
            into.parameters[f"{name}.bias"] = bias.cpu()
        return _entry(name, self.form, weight, kept, best, moments)

    def _best(self, weight: Tensor, kept: Tensor, moments: list[Moments], has_bias: bool) -> Refit:
        train, held_out = moments
        if self.form == "bias":
            x, y = train.mean()
            dense = weight.double()
            return Refit(dense[:, kept], dense @ x - dense[:, kept] @ y, 0.0, 1.0)
        refits = [refit(weight, kept, train, ridge, centred=has_bias) for ridge in self.ridges]
        return min(refits, key=lambda one: relative_error(weight, one.weight, one.shift, held_out))


@dataclass
class _States:
    """What enters a block of the dense model and of the pruned one, for the same windows."""

    dense: HiddenStates
    pruned: HiddenStates | None
    """None where the pruned model reads the dense one's states."""

    @classmethod
    def of(cls, decoder: Decoder, windows: Tensor, batch: int | None, form: str) -> "_States":
        size = micro_batch(windows.shape[1], batch)
        dense = HiddenStates.at_entry(decoder, windows, size)
        absorbing = form == "absorbing"
        return cls(dense, HiddenStates(list(dense.batches), list(dense.tokens)) if absorbing else None)

    def moments(self, decoder: Decoder, site: Site, plan: KeptGroups, dense: nn.Module, pruned: nn.Module) -> Moments:
        """Of what the consumer of a site reads in either block."""
        consumer = site.consumer.matrix.removeprefix(f"{decoder.block_prefix}.{site.block}.")
        kept = kept_slices(site, plan)[site.consumer.name][1].to(decoder.device)
        moments = Moments()
        theirs = _read_by(decoder, site.block, dense, consumer, self.dense)
        ours = _read_by(decoder, site.block, pruned, consumer, self.pruned) if self.pruned else None
        for x in theirs:
            y = next(ours) if ours else x
            moments.add(x, y[:, kept])
        return moments

    def advance(self, decoder: Decoder, index: int, dense: nn.Module, pruned: nn.Module) -> None:
        """Replace the states by the outputs of the two blocks."""
        for states, block in ((self.dense, dense), (self.pruned, pruned)):
            if states is not None:
                for position, forward in enumerate(_forwards(decoder, index, block, states)):
                    states.advance(position, forward(), index)


def _forwards(decoder: Decoder, index: int, block: nn.Module, states: HiddenStates) -> list[Callable[[], Tensor]]:
    calls = [decoder.calls(tokens)[index] for tokens in states.tokens]

    def forward(position: int) -> Callable[[], Tensor]:
        return lambda: calls[position].run(block, states.batches[position].to(decoder.device))

    return [forward(position) for position in range(len(calls))]


def _read_by(decoder: Decoder, index: int, block: nn.Module, consumer: str, states: HiddenStates) -> Iterator[Tensor]:
    """Micro-batch by micro-batch what a matrix of the block reads [tokens, in]."""
    seen: list[Tensor] = []
    for forward in _forwards(decoder, index, block, states):
        module = block.get_submodule(consumer)
        handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2)))
        try:
            forward()
        finally:
            handle.remove()
        yield seen.pop()


def _without_bias(decoder: Decoder, sites: Sequence[Site]) -> tuple[str, ...]:
    bare = [site.family for site in sites if decoder.model.get_submodule(site.consumer.matrix).bias is None]
    return tuple(dict.fromkeys(bare))


def _entry(name: str, form: str, weight: Tensor, kept: Tensor, refit: Refit, moments: list[Moments]) -> dict[str, Any]:
    errors = {
        part: {
            "before": relative_error(weight, weight[:, kept], None, part_moments),
            "after": relative_error(weight, refit.weight, refit.shift, part_moments),
        }
        for part, part_moments in zip(("train", "held_out"), moments, strict=True)
    }
    return {
        "layer": name,
        "event": "least_squares" if form != "bias" else "mean_as_bias",
        "form": form,
        "ridge": refit.ridge,
        "condition": refit.condition,
        "relative_error": errors,
    }
