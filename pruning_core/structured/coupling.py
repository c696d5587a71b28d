"""Check of coupled groups: found by names, they are tried by running the block."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruning_core.errors import InputError
from pruning_core.model.coupled_groups import Site
from pruning_core.model.decoder import BlockCall, Decoder
from pruning_core.structured.scoring_inputs import loaded

TOLERANCE = 1e-4
"""Of the largest input: float32 sums over other numbers of terms differ by less."""


@torch.no_grad()
def check_coupling(decoder: Decoder, sites: Sequence[Site], tokens: Tensor) -> None:
    """Change what the first, a middle and the last group of every site write with, one at a time.

    The columns of the group, and no others, must then carry other values to the matrix that reads them.

    Args:
        tokens: [sequences, tokens] int64, a few; every block runs on what enters the first.

    Raises:
        InputError: a group reaches further, or not as far, as its site says.
    """
    hidden, calls = decoder.enter(tokens), decoder.calls(tokens)
    for index in range(len(decoder)):
        with loaded(decoder, index) as block:
            for site in (site for site in sites if site.block == index):
                before = _read(block, site, decoder, calls[index], hidden)
                for group in sorted({0, site.groups // 2, site.groups - 1}):
                    moved = torch.zeros(before.shape[1], dtype=torch.bool, device=before.device)
                    # Either sign alone might leave a rectified channel at zero.
                    for sign in (1, -1):
                        changed = copy.deepcopy(block)
                        _disturb(changed, site, group, f"{decoder.block_prefix}.{index}.", sign)
                        change = (_read(changed, site, decoder, calls[index], hidden) - before).abs().amax(0)
                        moved |= change > TOLERANCE * before.abs().max().clamp_min(1e-6)
                    _check_reach(moved, site, group)


def _disturb(block: nn.Module, site: Site, group: int, prefix: str, sign: int) -> None:
    for member in site.members:
        if not member.consumes:
            parameter = block.get_parameter(member.name.removeprefix(prefix))
            rows = member.index[group].to(parameter.device)
            # Other values, not multiples: scores of attention are to change too.
            values = parameter.index_select(member.axis, rows)
            other = values.flip(0 if values.dim() == 1 else 1 - member.axis) * 1.5 + 0.01
            parameter.index_copy_(member.axis, rows, sign * other)


def _read(block: nn.Module, site: Site, decoder: Decoder, call: BlockCall, hidden: Tensor) -> Tensor:
    """[tokens, in]: what the consumer reads."""
    seen: list[Tensor] = []
    consumer = block.get_submodule(site.consumer.matrix.removeprefix(f"{decoder.block_prefix}.{site.block}."))
    handle = consumer.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, -2).clone()))
    try:
        call.run(block, hidden)
    finally:
        handle.remove()
    return seen[0]


def _check_reach(moved: Tensor, site: Site, group: int) -> None:
    expected = torch.zeros_like(moved)
    expected[site.consumer.index[group].to(expected.device)] = True
    if bool((moved & ~expected).any()) or not bool((moved & expected).any()):
        reach = "reaches other groups" if bool((moved & ~expected).any()) else "changes nothing"
        raise InputError(
            f"group {group} of {site.name} {reach}: this architecture couples its {site.family} groups in a way that "
            f"is not known here; leave {site.family} out of families"
        )
