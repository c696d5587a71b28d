"""Cached dense predictions and the model that is switched from candidate to candidate."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pruning_core.calibration.staged_forward import InputGroup
from pruning_core.compress.shares import matrices_of
from pruning_core.model.decoder import matrix, set_matrix
from pruning_core.model.whole_model import load_whole
from pruning_core.search.evaluator import Evaluator
from pruning_core.search.level_store import LevelStore, compress_levels
from pruning_core.search.targets import DenseTargets, Targets
from pruning_core.settings.method import build_method

MAGNITUDE = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured", "scope": "matrix"}, "sparsity": 0.5}
LEVELS = (0.1, 0.3, 0.5, 0.7)


def exact_kl(dense: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """[windows], summed over predictions."""
    p, q = dense.double().softmax(-1), candidate.double().softmax(-1)
    return (p * (p.log() - q.log())).sum((-1, -2))


def logits(seed: int, shape: tuple[int, ...] = (3, 7, 40)) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def targets_of(dense: torch.Tensor, top: int) -> DenseTargets:
    windows = torch.arange(len(dense))[:, None]
    return DenseTargets.of(lambda rows: dense[rows[:, 0]], windows, top, 2)


@pytest.mark.parametrize("top", [1, 5, 20, 39])
def test_top_probabilities_and_one_bucket_bound_the_divergence_from_below(top: int):
    dense, candidate = logits(0), logits(1)
    found = Targets([targets_of(dense, top)], 3).divergences([0, 1, 2], candidate)
    whole = exact_kl(dense, candidate)
    assert all(0 <= bound <= float(exact) + 1e-4 for bound, exact in zip(found, whole, strict=True))
    finer = Targets([targets_of(dense, top + 1)], 3).divergences([0, 1, 2], candidate)
    assert all(coarse <= fine + 1e-4 for coarse, fine in zip(found, finer, strict=True))


@pytest.mark.parametrize("top", [40, 512])
def test_where_the_top_covers_the_vocabulary_the_bound_is_the_divergence(top: int):
    dense, candidate = logits(0), logits(1)
    found = Targets([targets_of(dense, top)], 3).divergences([0, 1, 2], candidate)
    torch.testing.assert_close(torch.tensor(found), exact_kl(dense, candidate), rtol=1e-5, atol=0, check_dtype=False)


def test_targets_come_back_from_their_files_in_parts(tmp_path: Path):
    dense, candidate = logits(0, (5, 7, 40)), logits(1, (5, 7, 40))
    whole = targets_of(dense, 8)
    parts = []
    for number, rows in enumerate(torch.arange(5).split(2)):
        targets_of(dense[rows], 8).save(tmp_path / f"{number}")
        parts.append(DenseTargets.load(tmp_path / f"{number}"))
    found = Targets(parts, 2).divergences([4, 1, 2], candidate[[4, 1, 2]])
    assert found == Targets([whole], 5).divergences([4, 1, 2], candidate[[4, 1, 2]])


@pytest.fixture
def stored(tiny_llama, tmp_path: Path) -> tuple[Path, LevelStore]:
    """A model of four blocks in a folder, and its levels by magnitude."""
    path = tmp_path / "model"
    tiny_llama(num_hidden_layers=4).save_pretrained(path)
    decoder, files = load_whole(path), []
    for index in range(4):
        linears = decoder.linears(index)
        shares = {name: [int(share * m.weight.numel()) for share in LEVELS] for name, m in linears.items()}
        groups = [(InputGroup((name,)), None) for name in linears]
        found = compress_levels(decoder, index, groups, build_method(MAGNITUDE), "zeros", shares)
        files.append(tmp_path / f"levels-{index}.safetensors")
        save_file(found.tensors, files[-1])
    return path, LevelStore(files)


def candidates(count: int) -> list[tuple[int, ...]]:
    """Genomes that share prefixes of every length with each other."""
    draw = torch.Generator().manual_seed(0)
    base = torch.randint(len(LEVELS), (28,), generator=draw)
    found = [tuple(base.tolist())]
    for position in torch.randint(28, (count - 1,), generator=draw).tolist():
        changed = base.clone()
        changed[position:] = torch.randint(len(LEVELS), (28 - position,), generator=draw)
        found.append(tuple(changed.tolist()))
    return sorted(set(found))


def test_a_candidate_is_judged_as_the_model_with_its_weights_is(stored):
    path, store = stored
    windows = torch.randint(0, 50, (6, 12), generator=torch.Generator().manual_seed(1))
    evaluator, plain = Evaluator(load_whole(path), store), load_whole(path)
    dense = DenseTargets.of(evaluator.dense_logits, windows, 50, 2)
    found = evaluator.evaluate(candidates(8), windows, [4, 0, 3], Targets([dense], 6))
    modules = {name: module for index in range(4) for name, module in plain.linears(index).items()}
    weights = {name: matrix(module) for name, module in modules.items()}
    before = plain.model(input_ids=windows).logits[:, :-1]
    for genome, divergences in zip(candidates(8), found.divergences, strict=True):
        for known, level in zip(matrices_of(plain), genome, strict=True):
            gone = int(LEVELS[level] * known.size)
            cut = weights[known.name].abs().flatten().sort().values[gone - 1]
            set_matrix(modules[known.name], weights[known.name].masked_fill(weights[known.name].abs() <= cut, 0.0))
        after = plain.model(input_ids=windows).logits[:, :-1]
        expected = exact_kl(before, after)[[4, 0, 3]]
        torch.testing.assert_close(torch.tensor(divergences), expected, rtol=1e-4, atol=1e-6, check_dtype=False)


def test_a_candidate_that_starts_at_its_first_changed_block_is_judged_bit_for_bit_as_from_the_start(stored):
    path, store = stored
    windows = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(2))
    evaluator = Evaluator(load_whole(path), store)
    targets = Targets([DenseTargets.of(evaluator.dense_logits, windows, 20, 4)], 4)
    together = evaluator.evaluate(candidates(20), windows, [0, 2], targets)
    alone = [evaluator.evaluate([genome], windows, [0, 2], targets) for genome in candidates(20)]
    assert together.divergences == [one.divergences[0] for one in alone]
    assert together.divergences == evaluator.evaluate(candidates(20)[::-1], windows, [0, 2], targets).divergences[::-1]
    assert sum(one.blocks for one in alone) == 4 * len(candidates(20))
    assert together.blocks == blocks_by_hand(candidates(20)) < 4 * len(candidates(20))


def blocks_by_hand(genomes: list[tuple[int, ...]]) -> int:
    """Seven matrices per block; a block runs again from the first that differs from the candidate before."""
    run = 4
    for one, other in pairwise(genomes):
        run += 4 - next(index for index in range(28) if one[index] != other[index]) // 7
    return run


def test_sorted_candidates_share_the_longest_prefixes_of_any_order(stored):
    genomes = candidates(7)
    draw = torch.Generator().manual_seed(3)
    for _ in range(50):
        order = torch.randperm(len(genomes), generator=draw).tolist()
        assert blocks_by_hand([genomes[index] for index in order]) >= blocks_by_hand(genomes)
