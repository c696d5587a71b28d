"""Perplexity: the published protocol, held against a reference table and against numpy in float64."""

import json
import math

import numpy as np
import pytest
import torch

from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation.perplexity import Perplexity, perplexity
from pruning_core.source import load_model, resolve

TOKENS = torch.randint(0, 50, (7, 12), generator=torch.Generator().manual_seed(1))


def cross_entropy_by_hand(model, window) -> float:
    """Mean over the predictions of one window, alone in its batch, in float64 numpy."""
    logits = model(window[None]).logits[0].detach().double().numpy()[:-1]
    scale = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    return float(np.mean(scale - logits[np.arange(len(logits)), window[1:].numpy()]))


def test_the_dense_reference_model_has_the_perplexity_of_the_reference_table(shared):
    golden = json.loads((shared / "golden" / "table-stories260K.json").read_text())["rows"]["dense"]["ppl"]
    source = resolve(str(shared / "models" / "stories260K-llama"))
    text = (shared / "data" / "tinystories" / "evaluation.txt").read_text(encoding="utf-8")
    ids = source.tokenizer()(text, add_special_tokens=False).input_ids
    windows = torch.tensor(ids[: 200 * 256]).reshape(200, 256)
    result = perplexity(load_model(source.path), windows, batch=16)
    assert result.value == pytest.approx(golden, abs=1e-3)
    assert result.tokens == 200 * 255


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        ("stories260K-llama", "stories260K-mistral", "tinystories/evaluation.txt"),
        ("shakespeare-char-818K-gpt2", "shakespeare-char-818K-opt", "tinyshakespeare.txt"),
    ],
)
def test_the_same_weights_in_two_architectures_have_the_same_losses(shared, one, other, text):
    content = (shared / "data" / text).read_text(encoding="utf-8")[:20_000]
    losses = []
    for name in (one, other):
        source = resolve(str(shared / "models" / name))
        ids = source.tokenizer()(content, add_special_tokens=False).input_ids[: 32 * 64]
        losses.append(perplexity(load_model(source.path), torch.tensor(ids).reshape(32, 64)).losses)
    assert 0.5 < float(losses[0].mean()) < 3
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


def test_each_window_has_the_mean_loss_of_its_predictions(tiny_llama):
    model = tiny_llama()
    result = perplexity(model, TOKENS, batch=3)
    expected = [cross_entropy_by_hand(model, window) for window in TOKENS]
    assert result.losses.dtype == torch.float64
    np.testing.assert_allclose(result.losses.numpy(), expected, rtol=1e-6)
    assert result.value == pytest.approx(math.exp(np.mean(expected)), rel=1e-6)


def test_only_the_last_predictions_count_where_windows_overlap(tiny_llama):
    model = tiny_llama()
    result = perplexity(model, TOKENS, batch=3, scored=4)
    logits = model(TOKENS).logits.detach().double().log_softmax(-1)
    expected = [
        -np.mean([float(row[t - 1, ids[t]]) for t in range(-4, 0)]) for row, ids in zip(logits, TOKENS, strict=True)
    ]
    np.testing.assert_allclose(result.losses.numpy(), expected, rtol=1e-5)
    assert result.tokens == 4 * len(TOKENS)


def test_the_batch_changes_nothing_but_rounding(tiny_llama):
    model = tiny_llama()
    reference = perplexity(model, TOKENS, batch=1).losses
    for batch in (2, 7, 100):
        torch.testing.assert_close(perplexity(model, TOKENS, batch=batch).losses, reference, rtol=1e-6, atol=0)


def test_a_batch_is_cut_down_where_its_logits_would_not_fit(tiny_llama, monkeypatch):
    model = tiny_llama()
    reference = perplexity(model, TOKENS, batch=7).losses
    seen = []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True)
    monkeypatch.setattr("pruning_core.evaluation.forward.LOGITS_BYTES", 2 * 12 * 50 * 4)
    monkeypatch.setattr("pruning_core.evaluation.forward.CHUNK_NUMBERS", 3 * 50)
    torch.testing.assert_close(perplexity(model, TOKENS, batch=7).losses, reference, rtol=1e-6, atol=0)
    assert seen == [2, 2, 2, 1]


def test_a_model_that_knows_nothing_has_the_perplexity_of_its_vocabulary(tiny_llama):
    model = tiny_llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    assert perplexity(model, TOKENS).value == pytest.approx(50, rel=1e-6)


def test_the_logits_of_a_half_precision_model_are_taken_to_float32(tiny_llama):
    model = tiny_llama().bfloat16()
    expected = [cross_entropy_by_hand(model, window) for window in TOKENS]
    # The losses would be multiples of 2^-6 or so in bfloat16.
    np.testing.assert_allclose(perplexity(model, TOKENS, batch=1).losses.numpy(), expected, rtol=1e-6)


def test_the_standard_error_is_that_of_the_mean_over_windows():
    losses = torch.tensor([1.0, 2.0, 4.0, 5.0], dtype=torch.float64)
    result = Perplexity(losses, tokens=4)
    assert result.standard_error == pytest.approx(np.std(losses.numpy(), ddof=1) / 2)
    assert Perplexity(losses[:1], tokens=1).standard_error is None


def test_a_perplexity_beyond_every_float_is_null_in_json_and_its_loss_is_told():
    facts = Perplexity(torch.tensor([1000.0], dtype=torch.float64), tokens=9).facts()
    assert json.loads(json.dumps(facts, allow_nan=False)) == {
        "perplexity": None,
        "mean_loss": 1000.0,
        "standard_error": None,
        "windows": 1,
        "tokens": 9,
    }


def test_nothing_that_was_passed_in_changes_and_progress_counts_windows(tiny_llama):
    model, tokens, seen = tiny_llama(), TOKENS.clone(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    perplexity(model, tokens, batch=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 7), (6, 7), (7, 7)]
    assert tokens.equal(TOKENS)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_loss_that_is_not_finite_names_its_window(tiny_llama):
    model = tiny_llama()
    only_in_window_4 = 49
    tokens = TOKENS.clamp(max=48)
    tokens[4, 2] = only_in_window_4
    with torch.no_grad():
        model.model.embed_tokens.weight[only_in_window_4] = float("nan")
    with pytest.raises(ComputationError, match="window 4 is nan"):
        perplexity(model, tokens, batch=3)


@pytest.mark.parametrize(
    ("tokens", "batch", "sentence"),
    [
        (TOKENS[0], 1, "shape"),
        (TOKENS[:0], 1, "at least one window"),
        (TOKENS[:, :1], 1, "at least 2 tokens"),
        (TOKENS, 0, "at least 1 window"),
        (TOKENS.repeat(1, 3), 1, "36 tokens are longer than the model's context of 32"),
        (TOKENS + 10, 1, "the model knows 0 to 49; use the tokenizer that belongs"),
        (TOKENS - 10, 1, "hold token -10"),
    ],
)
def test_windows_that_the_model_cannot_take_are_refused(tiny_llama, tokens, batch, sentence):
    with pytest.raises(InputError, match=sentence):
        perplexity(tiny_llama(), tokens, batch=batch)


def test_a_model_in_training_mode_is_refused(tiny_llama):
    with pytest.raises(InputError, match=r"model\.eval"):
        perplexity(tiny_llama().train(), TOKENS)
