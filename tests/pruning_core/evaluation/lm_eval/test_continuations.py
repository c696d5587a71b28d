"""Items made of a text: what they hold, and that a model's tokens are the ones that are scored."""

from collections import Counter
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from pruning_core.checkpoint.model_files import read_tokenizer
from pruning_core.errors import InputError
from pruning_core.evaluation.lm_eval.continuations import Shape, continuation_items
from pruning_core.text import Documents
from pruning_core.text.stdlib import Stdlib

ROOT = Path(__file__).resolve().parents[4]
SHAPE = Shape(items=30, context=48, continuation=12, choices=4)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return read_tokenizer(ROOT / "models" / "stdlib-2.8m")


@pytest.fixture(scope="module")
def documents() -> Documents:
    whole = Stdlib(split="test").read()
    return Documents(whole.texts[:6], whole.separator, whole.source)


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def test_one_choice_follows_the_context_in_the_text_and_the_others_come_from_the_same_document(tokenizer, documents):
    for item in continuation_items(documents, tokenizer, SHAPE, 0):
        whole = [text for text in documents.texts if item["context"] + item["choices"][item["label"]] in text]
        assert whole
        wrong = [choice for place, choice in enumerate(item["choices"]) if place != item["label"]]
        assert len(set(item["choices"])) == 4
        assert any(all(choice in text for choice in wrong) for text in whole)


def test_every_choice_is_so_many_tokens_of_its_own_and_begins_like_the_true_one(tokenizer, documents):
    for item in continuation_items(documents, tokenizer, SHAPE, 0):
        before = ids(tokenizer, item["context"])
        pieces = [ids(tokenizer, item["context"] + choice) for choice in item["choices"]]
        assert len(before) == 48 and all(piece[:48] == before for piece in pieces)
        assert {len(piece) for piece in pieces} == {60}
        assert len({piece[48] for piece in pieces}) == 1
        assert not item["context"][-1].isspace()


def test_the_same_seed_gives_the_same_items_and_another_one_others(tokenizer, documents):
    first, second = (continuation_items(documents, tokenizer, SHAPE, 0) for _ in range(2))
    assert first == second != continuation_items(documents, tokenizer, SHAPE, 1)
    places = Counter(item["label"] for item in first)
    assert set(places) == {0, 1, 2, 3}
    assert len({item["context"] for item in first}) == 30


def test_a_tokenizer_that_marks_the_beginning_of_a_text_gives_items_too(shared: Path):
    tokenizer = read_tokenizer(shared / "models" / "stories260K-llama")
    text = (shared / "data" / "tinystories" / "evaluation.txt").read_text(encoding="utf-8")[:20_000]
    items = continuation_items(Documents((text,), "", {}), tokenizer, Shape(20, 24, 8, 4), 0)
    for item in items:
        before = tokenizer(item["context"])["input_ids"]
        for choice in item["choices"]:
            whole = tokenizer(item["context"] + choice)["input_ids"]
            assert whole[: len(before)] == before and len(whole) == len(before) + 8


def test_a_text_that_is_too_short_is_told(tokenizer):
    text = Documents(("def f():\n    return 1\n" * 20,), "", {})
    with pytest.raises(InputError, match=r"the text gives \d+ items of 48 and 12 tokens with 4 choices, and 30 were"):
        continuation_items(text, tokenizer, SHAPE, 0)
