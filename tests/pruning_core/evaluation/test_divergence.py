"""KL divergence of a compressed model from the dense one, held against numpy in float64."""

import json

import numpy as np
import pytest
import torch

from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation.divergence import compare_to_dense, kl_to_dense
from pruning_core.evaluation.perplexity import perplexity

TOKENS = torch.randint(0, 50, (5, 12), generator=torch.Generator().manual_seed(2))


def log_probabilities(model, window):
    logits = model(window[None]).logits[0, :-1].detach().double().numpy()
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_divergence_is_the_sum_of_p_log_p_over_q_with_p_the_dense_model(tiny_llama):
    model, dense = tiny_llama(seed=1), tiny_llama(seed=0)
    result = kl_to_dense(model, dense, TOKENS, batch=2)
    for i, window in enumerate(TOKENS):
        log_q, log_p = log_probabilities(model, window), log_probabilities(dense, window)
        assert float(result.kl[i]) == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(-1).mean(), rel=1e-5)
        agreed = (log_p.argmax(-1) == log_q.argmax(-1)).mean()
        assert float(result.agreement[i]) == pytest.approx(agreed)
    assert result.kl.dtype == torch.float64
    assert result.tokens == 5 * 11
    assert result.mean_kl > 0.01
    assert 0 <= result.top1_agreement < 1


def test_only_the_last_predictions_count_where_windows_overlap(tiny_llama):
    model, dense = tiny_llama(seed=1), tiny_llama(seed=0)
    own, divergence = compare_to_dense(model, dense, TOKENS, 2, scored=3)
    for i, window in enumerate(TOKENS):
        log_q, log_p = (log_probabilities(one, window)[-3:] for one in (model, dense))
        assert float(divergence.kl[i]) == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(-1).mean(), rel=1e-5)
        assert float(own.losses[i]) == pytest.approx(-np.mean(log_q[range(3), window[-3:].numpy()]), rel=1e-5)
    assert own.tokens == divergence.tokens == 3 * len(TOKENS)


def test_a_model_does_not_diverge_from_itself(tiny_llama):
    model = tiny_llama()
    result = kl_to_dense(model, model, TOKENS)
    assert result.mean_kl == 0.0
    assert result.top1_agreement == 1.0


def test_scaling_the_output_changes_the_divergence_and_not_the_first_choice(tiny_llama):
    model, dense = tiny_llama(), tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    result = kl_to_dense(model, dense, TOKENS)
    assert result.mean_kl > 1e-3
    assert result.top1_agreement == 1.0


def test_against_a_model_that_knows_nothing_the_divergence_is_log_vocabulary_minus_entropy(tiny_llama):
    model, dense = tiny_llama(), tiny_llama(seed=3)
    torch.nn.init.zeros_(model.lm_head.weight)
    log_p = np.stack([log_probabilities(dense, window) for window in TOKENS])
    entropy = -(np.exp(log_p) * log_p).sum(-1).mean()
    assert kl_to_dense(model, dense, TOKENS).mean_kl == pytest.approx(np.log(50) - entropy, rel=1e-5)


def test_tokens_that_both_models_rule_out_count_nothing(tiny_llama):
    class Masked(torch.nn.Module):
        """A model with one token ruled out, as padded vocabularies have them."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.config = inner, inner.config

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

        def forward(self, **inputs):
            output = self.inner(**inputs)
            output.logits[..., 7] = -torch.inf
            return output

    model, dense = Masked(tiny_llama(seed=1)).eval(), Masked(tiny_llama()).eval()
    result = kl_to_dense(model, dense, TOKENS)
    assert result.kl.isfinite().all()
    with pytest.raises(ComputationError, match="window 0 is inf"):
        kl_to_dense(model, tiny_llama(), TOKENS)


def test_the_predictions_are_those_of_the_perplexity(tiny_llama):
    model = tiny_llama()
    assert kl_to_dense(model, model, TOKENS).tokens == perplexity(model, TOKENS).tokens


def test_chunks_and_batches_change_nothing_but_rounding(tiny_llama, monkeypatch):
    model, dense = tiny_llama(seed=1), tiny_llama()
    reference = kl_to_dense(model, dense, TOKENS, batch=5)
    monkeypatch.setattr("pruning_core.evaluation.forward.CHUNK_NUMBERS", 4 * 50)
    pieces = kl_to_dense(model, dense, TOKENS, batch=1)
    torch.testing.assert_close(pieces.kl, reference.kl, rtol=1e-5, atol=0)
    assert pieces.agreement.equal(reference.agreement)


def test_models_of_different_vocabularies_are_refused(tiny_llama):
    with pytest.raises(InputError, match="predict 50 and 60 tokens"):
        kl_to_dense(tiny_llama(), tiny_llama(vocab_size=60), TOKENS)


def test_the_facts_are_json(tiny_llama):
    result = kl_to_dense(tiny_llama(seed=1), tiny_llama(), TOKENS)
    facts = json.loads(json.dumps(result.facts(), allow_nan=False))
    assert facts["kl_to_dense"] == pytest.approx(np.mean(result.kl.numpy()), rel=1e-14)
    assert facts["standard_error"] == pytest.approx(np.std(result.kl.numpy(), ddof=1) / np.sqrt(5))
    assert (facts["windows"], facts["tokens"]) == (5, 55)
