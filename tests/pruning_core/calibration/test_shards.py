"""Calibration in shards: the bits of one process that takes them one after another."""

import pytest
import torch
from transformers import MixtralConfig

from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.calibration.shards import Shards
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.checkpoint.model_files import read_config
from pruning_core.compress.block import compress_block
from pruning_core.errors import InputError
from pruning_core.model.decoder import Decoder
from pruning_core.settings.method import build_method

OBS = {"saliency": {"name": "obs"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5}


@pytest.mark.parametrize(("batches", "count", "ends"), [(8, 2, [4, 8]), (7, 3, [2, 4, 7]), (3, 3, [1, 2, 3])])
def test_shards_are_runs_of_whole_micro_batches(batches: int, count: int, ends: list[int]):
    assert Shards(count).ends(batches) == ends
    windows = torch.arange(batches * 2 - 1)[:, None]
    parts = [Shards(count, rank).own(windows, 2) for rank in range(count)]
    # The last micro-batch is a short one.
    assert torch.equal(torch.cat(parts), windows)
    assert [-(-len(part) // 2) for part in parts] == [b - a for a, b in zip([0, *ends], ends, strict=False)]


def test_more_shards_than_micro_batches_are_refused():
    with pytest.raises(InputError, match="2 micro-batches of calibration cannot make 3 shards"):
        Shards(3).ends(2)


@pytest.mark.parametrize("full", [True, False])
def test_the_sum_is_that_of_the_shards_in_order_to_the_bit(full: bool):
    batches = torch.randn(5, 4, 32, 24, generator=torch.Generator().manual_seed(0))
    summed = Shards(2).statistics(24, full, 5)
    for batch in batches:
        summed.add(batch)
    first, second = LayerStatistics(24, full), LayerStatistics(24, full)
    for position, batch in enumerate(batches):
        (first if position < 2 else second).add(batch)
    done = summed.total()
    assert torch.equal(done.moment, first.moment + second.moment) and done.tokens == 5 * 4 * 32
    whole = LayerStatistics(24, full)
    for batch in batches:
        whole.add(batch)
    assert torch.allclose(done.hessian_diag(), whole.hessian_diag(), rtol=1e-5)


@pytest.mark.parametrize("propagation", ["compressed", "blockwise"])
def test_a_block_in_shards_is_the_block_but_for_rounding(tiny_directory, propagation: str):
    config = read_config(tiny_directory)
    windows = torch.randint(1, 40, (8, 16), generator=torch.Generator().manual_seed(1))
    made = []
    for shards in (Shards(), Shards(3)):
        decoder = Decoder(tiny_directory, config)
        states = HiddenStates.at_entry(decoder, windows, 2)
        decoder.load_block(0)
        outcome = compress_block(decoder, 0, states, build_method(OBS), propagation, shards=shards)
        made.append(outcome)
    assert made[0].layers[0].tokens == made[1].layers[0].tokens == 128
    for name, weight in made[0].weights.items():
        assert float(((weight - made[1].weights[name]).abs() > 1e-3).double().mean()) < 0.02


def test_a_mixture_of_experts_is_refused(mixture_directory):
    path = mixture_directory(MixtralConfig, num_local_experts=3, num_experts_per_tok=2)
    decoder = Decoder(path, read_config(path))
    states = HiddenStates.at_entry(decoder, torch.ones(4, 16, dtype=torch.int64), 2)
    decoder.load_block(0)
    with pytest.raises(InputError, match=r"calibrated in one shard; set compute\.shards to 1"):
        compress_block(decoder, 0, states, build_method(OBS), "compressed", shards=Shards(2))
