"""Greedy continuations against the generation of transformers, and the figures on them against counts by hand."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation.greedy import SampleProtocol, agreement, continue_greedily, parts, shared_start

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9]]


def generated(model, prompt: list[int], new_tokens: int, end: int | None = None) -> list[int]:
    """What transformers makes of it."""
    ids = torch.tensor([prompt])
    options = {"do_sample": False, "max_new_tokens": new_tokens, "eos_token_id": end, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


def test_the_tokens_are_those_of_greedy_generation_in_transformers(tiny_llama):
    model = tiny_llama()
    model.generation_config.eos_token_id = None
    assert continue_greedily(model, PROMPTS, 12) == [generated(model, prompt, 12) for prompt in PROMPTS]


def test_a_continuation_ends_with_the_end_token_while_others_go_on(tiny_llama):
    model = tiny_llama()
    model.generation_config.eos_token_id = None
    free = continue_greedily(model, PROMPTS, 12)
    # The first and the last go through the model together.
    end = next(token for token in free[0] if [*free[0], token].index(token) != [*free[2], token].index(token))
    model.generation_config.eos_token_id = [end]
    told = continue_greedily(model, PROMPTS, 12)
    assert told == [generated(model, prompt, 12, end) for prompt in PROMPTS]
    assert told[0] == free[0][: free[0].index(end) + 1] and len(told[0]) != len(told[2])


def test_the_agreement_counts_tokens_before_the_first_difference():
    dense = [[1, 2, 3, 4], [5, 6], [7]]
    own = [[1, 2, 9, 4], [5, 6], [8, 7]]
    assert [shared_start(one, two) for one, two in zip(own, dense, strict=True)] == [2, 2, 0]
    assert agreement(own, dense) == 4 / 7
    assert agreement(dense, dense) == 1.0


def test_the_text_is_cut_where_the_tokens_part_and_never_within_a_character():
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: place for place, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    prompt, tokens = (wrapped(text)["input_ids"] for text in ("a ", "né b"))
    assert len(tokens) == 5
    assert parts(wrapped, prompt, tokens, 1) == ("n", "é", " b")
    # Half of its bytes are shared: the character is what differs.
    assert parts(wrapped, prompt, tokens, 2) == ("n", "é", " b")
    assert parts(wrapped, prompt, tokens, 3) == ("né", " ", "b")
    assert parts(wrapped, prompt, tokens, 5) == ("né b", "", "")


def test_other_prompts_are_another_protocol():
    assert SampleProtocol.of(PROMPTS, 4).digest == SampleProtocol.of([list(prompt) for prompt in PROMPTS], 4).digest
    others = [SampleProtocol.of(PROMPTS[:2], 4), SampleProtocol.of(PROMPTS, 5), SampleProtocol.of([[3, 1], [4]], 4)]
    assert len({one.digest for one in (*others, SampleProtocol.of(PROMPTS, 4))}) == 4
    with pytest.raises(InputError, match="new_tokens 4 and 5"):
        SampleProtocol.of(PROMPTS, 4).require_same(others[1])


@pytest.mark.parametrize(
    ("prompts", "new_tokens", "told"),
    [
        ([], 4, "at least one prompt"),
        ([[1], []], 4, "of at least one token"),
        ([[1]], 0, "one new token"),
        ([[1, 50]], 4, "token 50, the model knows 0 to 49"),
        ([[1] * 30], 3, "30 tokens and 3 new ones are more than the model's context of 32"),
    ],
)
def test_what_cannot_be_continued_is_refused(tiny_llama, prompts: list, new_tokens: int, told: str):
    with pytest.raises(InputError, match=told):
        continue_greedily(tiny_llama(), prompts, new_tokens)


def test_a_model_whose_logits_are_nan_writes_nothing(tiny_llama):
    model = tiny_llama()
    model.lm_head.weight.data[7] = float("nan")
    with pytest.raises(ComputationError, match="token 0 of a continuation are NaN"):
        continue_greedily(model, PROMPTS, 4)
