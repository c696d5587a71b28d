"""Pruning in rounds: exact counts on the published curves, masks that only grow, an optimizer that forgets."""

from pathlib import Path

import pytest
import torch
from trainable_models import SHORT, trainable_model, weights

from pruning_core.errors import InputError
from pruning_core.model.decoder import matrix
from pruning_core.patterns import PATTERNS
from pruning_core.recovery import RECOVERIES
from pruning_core.recovery.training.gradual_schedule import gradual_pattern
from pruning_core.recovery.training.input_norms import input_norms
from pruning_core.recovery.training.objective import Objective, moments

ROWS = {"name": "unstructured", "scope": "row"}
MATRIX = {"name": "unstructured", "scope": "matrix"}
N_OF_M = {"name": "n_of_m", "n": 1, "m": 4}
ROUNDS = {"name": "iterative_magnitude", "rounds": 3} | SHORT


def gradual(pattern: dict, sparsity: float | None, rounds: int = 4, path: str = "cubic"):
    return gradual_pattern(PATTERNS.build(pattern), sparsity, rounds, path)


def test_a_cubic_path_removes_most_in_the_first_rounds():
    found = [gradual(MATRIX, 0.8).sparsity_after(round_) for round_ in range(1, 5)]
    assert found == pytest.approx([0.8 * 37 / 64, 0.8 * 7 / 8, 0.8 * 63 / 64, 0.8])


def test_a_geometric_path_removes_one_share_of_the_survivors_every_round():
    found = [gradual(MATRIX, 0.875, 3, "geometric").sparsity_after(round_) for round_ in range(1, 4)]
    assert found == pytest.approx([0.5, 0.75, 0.875])


@pytest.mark.parametrize("path", ["cubic", "geometric"])
@pytest.mark.parametrize(("pattern", "sparsity"), [(ROWS, 0.7), (MATRIX, 0.7), (N_OF_M, None)])
def test_masks_grow_to_exact_counts_though_scores_change_between_rounds(pattern: dict, sparsity, path: str):
    way = gradual(pattern, sparsity, 5, path)
    keep = torch.ones(6, 20, dtype=torch.bool)
    for round_ in range(1, 6):
        score = torch.rand(6, 20, generator=torch.Generator().manual_seed(round_))
        grown = way.grown("w", score, keep, round_)
        assert not bool((grown & ~keep).any())
        # Of what was left, the smallest went.
        lost = keep & ~grown
        if pattern is MATRIX:
            assert int((~grown).sum()) == round(120 * way.sparsity_after(round_))
            assert not lost.any() or score[lost].max() < score[grown].min()
        if pattern is ROWS:
            counts = (~grown).sum(dim=1)
            assert int(counts.sum()) == round(120 * way.sparsity_after(round_)) and counts.max() - counts.min() <= 1
        if pattern is N_OF_M:
            assert len((~grown).reshape(-1, 4).sum(dim=1).unique()) == 1
        keep = grown
    assert int(keep.sum()) == (30 if pattern is N_OF_M else 36)


def test_a_round_that_removes_nothing_changes_nothing():
    way = gradual({"name": "n_of_m", "n": 3, "m": 4}, None, 4, "geometric")
    dense = torch.ones(4, 8, dtype=torch.bool)
    assert torch.equal(way.grown("w", torch.rand(4, 8), dense, 1), dense)


def test_ties_are_broken_by_place_and_never_by_one_too_many():
    found = gradual(MATRIX, 0.5, 1).grown("w", torch.ones(3, 5), torch.ones(3, 5, dtype=torch.bool), 1)
    assert int((~found).sum()) == 7


@pytest.mark.parametrize(("pattern", "sparsity"), [(ROWS, 0.6), (MATRIX, 0.6), (N_OF_M, None)])
@pytest.mark.parametrize("score", ["magnitude", "wanda"])
def test_a_dense_model_ends_with_the_pattern_in_every_matrix(
    tiny_directory: Path, tmp_path: Path, pattern: dict, sparsity, score: str
):
    subject = trainable_model(tiny_directory, tmp_path, masked=False)
    method = RECOVERIES.build(ROUNDS | {"pattern": pattern, "sparsity": sparsity, "score": score})
    done = method.recover(subject)
    checked = PATTERNS.build(pattern)
    for name, keep in done.masks.items():
        assert checked.fault(keep, sparsity) is None
        assert torch.equal(matrix(subject.decoder.model.get_submodule(name)) != 0, keep)
    assert done.history[0]["removed"] == sum(int((~keep).sum()) for keep in done.masks.values())


def test_rounds_begin_where_they_should_and_the_rate_rises_anew_in_each(tiny_directory: Path, tmp_path: Path):
    subject = trainable_model(tiny_directory, tmp_path, masked=False)
    spec = ROUNDS | {"sparsity": 0.8, "steps": 12, "validate_every": 1, "warmup": 1, "learning_rate": 0.01}
    counts = []

    def count(done: int, total: int) -> None:
        modules = subject.matrices().values()
        counts.append(sum(int((matrix(module) == 0).sum()) for module in modules))

    object.__setattr__(subject, "progress", count)
    done = RECOVERIES.build(spec).recover(subject)
    sizes = [matrix(module).numel() for module in subject.matrices().values()]
    shares = [0.8 * 19 / 27, 0.8 * 26 / 27, 0.8]
    expected = [sum(round(size * share) for size in sizes) for share in shares]
    assert counts == [0] + [expected[step // 4] for step in range(12)]
    rates = [point["learning_rate"] for point in done.curves["model"]][1:]
    # A warm-up of one step is at the top at once; then a cosine over the three that are left of the round.
    assert rates == pytest.approx([0.01, 0.01, 0.0075, 0.0025] * 3)


def test_the_first_round_removes_the_smallest_weights_of_the_dense_model(tiny_directory: Path, tmp_path: Path):
    subject = trainable_model(tiny_directory, tmp_path, masked=False)
    before = weights(subject)
    done = RECOVERIES.build(ROUNDS | {"rounds": 1, "sparsity": 0.5}).recover(subject)
    for name, keep in done.masks.items():
        magnitudes = before[f"{name}.weight"].abs()
        assert magnitudes[~keep].max() < magnitudes[keep].min()


def test_what_a_round_removes_is_forgotten_by_the_optimizer(tiny_directory: Path, tmp_path: Path, monkeypatch):
    subject = trainable_model(tiny_directory, tmp_path, masked=False)
    seen, project = [], Objective.project

    def watched(self, optimizer):
        before = {name: [one.clone() for one in moments(optimizer, self.parameters[name])] for name in self.masks}
        project(self, optimizer)
        for name, keep in self.masks.items():
            after = moments(optimizer, self.parameters[name])
            assert all(bool((one[~keep] == 0).all()) for one in after)
            moved = [bool((one[~keep] != 0).any()) for one in before[name]]
            kept = [torch.equal(old[keep], new[keep]) for old, new in zip(before[name], after, strict=True)]
            assert all(kept)
            seen.append(any(moved))

    monkeypatch.setattr(Objective, "project", watched)
    RECOVERIES.build(ROUNDS | {"sparsity": 0.6}).recover(subject)
    # At the second and third round there was something to forget.
    assert any(seen)


def test_input_norms_are_those_of_what_enters_each_matrix(tiny_directory: Path, tmp_path: Path):
    subject = trainable_model(tiny_directory, tmp_path, masked=False)
    modules = subject.matrices()
    caught = {}
    handles = [
        module.register_forward_hook(lambda one, args, out, name=name: caught.update({name: args[0]}))
        for name, module in modules.items()
    ]
    with torch.no_grad():
        subject.decoder.model(subject.tokens)
    for handle in handles:
        handle.remove()
    found = input_norms(subject.decoder.model, modules, subject.tokens.split(3), torch.device("cpu"))
    for name, norm in found.items():
        torch.testing.assert_close(norm, caught[name].flatten(0, 1).norm(dim=0), rtol=1e-5, atol=1e-6)


def test_a_model_that_is_pruned_already_is_pruned_further(tiny_directory: Path, tmp_path: Path):
    subject = trainable_model(tiny_directory, tmp_path)
    done = RECOVERIES.build(ROUNDS | {"sparsity": 0.75, "pattern": ROWS}).recover(subject)
    for name, keep in done.masks.items():
        assert not bool((keep & ~subject.masks[name]).any()) and float(keep.float().mean()) == 0.25


def test_zeros_that_do_not_fit_into_the_pattern_are_refused(tiny_directory: Path, tmp_path: Path):
    subject = trainable_model(tiny_directory, tmp_path)
    with pytest.raises(InputError, match="own zeros do not fit into this pattern"):
        RECOVERIES.build(ROUNDS | {"pattern": N_OF_M | {"n": 3}}).recover(subject)


def test_a_pattern_that_a_matrix_cannot_have_is_refused_before_anything_is_trained(
    tiny_directory: Path, tmp_path: Path
):
    subject = trainable_model(tiny_directory, tmp_path / "run", masked=False)
    with pytest.raises(InputError, match="needs in_features divisible by 5"):
        RECOVERIES.build(ROUNDS | {"pattern": {"name": "n_of_m", "n": 2, "m": 5}}).recover(subject)
    assert not (tmp_path / "run").exists()


def test_rounds_without_a_step_are_refused(tiny_directory: Path, tmp_path: Path):
    subject = trainable_model(tiny_directory, tmp_path, masked=False)
    with pytest.raises(InputError, match="7 rounds of 0 steps leave none after the warm-up"):
        RECOVERIES.build(ROUNDS | {"rounds": 7, "sparsity": 0.5}).recover(subject)
