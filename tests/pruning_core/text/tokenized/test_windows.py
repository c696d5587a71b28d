"""Windows of tokens, against literal recomputations over a tokenizer of one token per character."""

import hashlib
import random
import struct

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from pruning_core.errors import InputError
from pruning_core.text import Documents
from pruning_core.text.tokenized.windows import calibration_windows, evaluation_windows

LETTERS = "abcdefghijklmnopqrstuvwxyz|"
START = len(LETTERS)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per letter; puts the token <s> before a text, as Llama's does."""
    vocabulary = {letter: number for number, letter in enumerate(LETTERS)} | {"<s>": START}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token="|"))
    letters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    letters.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    return PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="|", bos_token="<s>", model_max_length=8)


def documents(*lengths: int) -> Documents:
    draw = random.Random(11)
    texts = tuple("".join(draw.choice(LETTERS[:-1]) for _ in range(length)) for length in lengths)
    return Documents(texts, "|", {"name": "letters"})


def ids_of(text: str) -> list[int]:
    return [LETTERS.index(letter) for letter in text]


def test_first_windows_are_the_beginning_of_the_joined_text_cut_back_to_back(tokenizer):
    texts = documents(7, 12, 30)
    done = calibration_windows(texts, tokenizer, sequences=4, length=5, sampling="first", seed=0)
    joined = ids_of("|".join(texts.texts))
    assert done.tokens.dtype == torch.int64
    assert done.tokens.tolist() == [joined[0:5], joined[5:10], joined[10:15], joined[15:20]]


@pytest.mark.parametrize(("size", "sequences", "length"), [(50, 5, 10), (53, 5, 10), (400, 7, 9), (31, 1, 30)])
def test_spread_windows_lie_one_in_each_equal_part_of_the_text(tokenizer, size, sequences, length):
    texts = documents(size)
    joined = ids_of(texts.text)
    places = [n * size / sequences for n in range(sequences + 1)]
    for seed in range(5):
        done = calibration_windows(texts, tokenizer, sequences=sequences, length=length, sampling="spread", seed=seed)
        end = 0
        for window, low, high in zip(done.tokens.tolist(), places[:-1], places[1:], strict=True):
            found = [n for n in range(end, size - length + 1) if joined[n : n + length] == window]
            # Random letters: the first place after the last window's end is the window's.
            assert found
            assert int(low) <= found[0]
            assert found[0] + length <= int(high)
            end = found[0] + length


def test_spread_windows_are_a_function_of_the_seed(tokenizer):
    texts = documents(900)
    draws = [
        calibration_windows(texts, tokenizer, sequences=8, length=9, sampling="spread", seed=seed).tokens
        for seed in (3, 3, 4)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_document_windows_replay_the_loop_of_the_papers(tokenizer):
    texts = documents(5, 60, 11, 12, 13, 80, 3, 40)
    done = calibration_windows(texts, tokenizer, sequences=50, length=12, sampling="documents", seed=7)
    # locuslab/wanda lib/data.py get_c4, with seqlen = 12.
    random.seed(7)
    expected = []
    for _ in range(50):
        while True:
            i = random.randint(0, len(texts.texts) - 1)
            encoded = [START, *ids_of(texts.texts[i])]
            if len(encoded) > 12:
                break
        i = random.randint(0, len(encoded) - 12 - 1)
        j = i + 12
        expected.append(encoded[i:j])
    assert done.tokens.tolist() == expected
    assert done.facts["special_tokens"] is True
    assert any(window[0] == START for window in expected)


def test_drawing_windows_leaves_the_global_random_numbers_alone(tokenizer):
    random.seed(1)
    expected = random.random()
    random.seed(1)
    for sampling in ("spread", "documents"):
        calibration_windows(documents(90), tokenizer, sequences=2, length=9, sampling=sampling, seed=3)
    assert random.random() == expected


def test_evaluation_windows_are_all_of_the_text_but_the_remainder(tokenizer):
    texts = documents(20, 17)
    joined = ids_of(texts.text)
    done = evaluation_windows(texts, tokenizer, length=8, windows=None)
    assert done.tokens.tolist() == [joined[n : n + 8] for n in (0, 8, 16, 24)]
    fewer = evaluation_windows(texts, tokenizer, length=8, windows=2)
    assert torch.equal(fewer.tokens, done.tokens[:2])


def test_special_tokens_come_once_before_the_whole_evaluation_text(tokenizer):
    texts = documents(20, 17)
    joined = [START, *ids_of(texts.text)]
    done = evaluation_windows(texts, tokenizer, length=8, windows=None, special_tokens=True)
    assert done.tokens.tolist() == [joined[n : n + 8] for n in (0, 8, 16, 24)]


def test_facts_name_the_source_and_the_digests(tokenizer):
    texts = documents(20, 17)
    done = evaluation_windows(texts, tokenizer, length=8, windows=3)
    packed = b"".join(struct.pack("<q", token) for row in done.tokens.tolist() for token in row)
    assert done.facts == {
        "source": {"name": "letters"},
        "text_digest": hashlib.sha256("|".join(texts.texts).encode()).hexdigest(),
        "token_digest": hashlib.sha256(packed).hexdigest(),
        "sampling": "consecutive",
        "special_tokens": False,
        "seed": None,
        "windows": 3,
        "length": 8,
        "stride": None,
        "bos": False,
        "scored": 7,
    }


def test_windows_that_overlap_start_every_stride_and_judge_what_is_new(tokenizer):
    texts = documents(20, 17)
    joined = ids_of(texts.text)
    done = evaluation_windows(texts, tokenizer, length=8, windows=None, stride=3)
    assert done.tokens.tolist() == [joined[n : n + 8] for n in range(0, 31, 3)]
    # Each token after the first five is judged once.
    assert done.facts["scored"] == 3 and done.facts["stride"] == 3
    judged = [token for row in done.tokens.tolist() for token in row[-3:]]
    assert judged == joined[5 : 5 + len(judged)] and len(joined) - 5 - len(judged) < 3


@pytest.mark.parametrize("stride", [None, 4])
def test_bos_stands_before_every_window_and_is_never_judged(tokenizer, stride):
    texts = documents(20, 17)
    joined = ids_of(texts.text)
    done = evaluation_windows(texts, tokenizer, length=8, windows=None, stride=stride, bos=True)
    step = stride or 7
    assert done.tokens.tolist() == [[START, *joined[n : n + 7]] for n in range(0, len(joined) - 6, step)]
    judged = [token for row in done.tokens.tolist() for token in row[-done.facts["scored"] :]]
    # Back to back every token is judged, the first one after BOS alone.
    assert judged == joined[7 - step : 7 - step + len(judged)]


def test_wrong_windows_are_told_with_what_is_allowed(tokenizer):
    texts = documents(20, 17)
    with pytest.raises(InputError, match=r"stride must be between 1 and 7, .* got 8"):
        evaluation_windows(texts, tokenizer, length=8, windows=None, stride=8, bos=True)
    with pytest.raises(InputError, match="use one of them"):
        evaluation_windows(texts, tokenizer, length=8, windows=None, special_tokens=True, bos=True)
    with pytest.raises(InputError, match="has 0 windows of 60 tokens"):
        evaluation_windows(texts, tokenizer, length=60, windows=None, stride=1)
    tokenizer.bos_token = None
    with pytest.raises(InputError, match="has no BOS token"):
        evaluation_windows(texts, tokenizer, length=8, windows=None, bos=True)


@pytest.mark.parametrize("sampling", ["first", "spread"])
def test_a_text_that_is_too_short_says_how_many_windows_there_are_and_how_many_were_asked(tokenizer, sampling):
    with pytest.raises(InputError, match=r"has 4 windows of 9 tokens \(38 tokens\) and 5 were asked"):
        calibration_windows(documents(20, 17), tokenizer, sequences=5, length=9, sampling=sampling, seed=0)


def test_an_evaluation_text_that_is_too_short_says_so(tokenizer):
    with pytest.raises(InputError, match=r"has 4 windows of 9 tokens .* and 5 were asked"):
        evaluation_windows(documents(20, 17), tokenizer, length=9, windows=5)
    with pytest.raises(InputError, match="has 0 windows of 39 tokens"):
        evaluation_windows(documents(20, 17), tokenizer, length=39, windows=None)


def test_documents_that_are_all_too_short_say_so_instead_of_searching_forever(tokenizer):
    with pytest.raises(InputError, match=r"longest has 21\), so there are 0 windows and 5 were asked"):
        calibration_windows(documents(20, 17), tokenizer, sequences=5, length=21, sampling="documents", seed=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sampling": "spred"}, "did you mean 'spread'"),
        ({"sequences": 0}, "sequences must be at least 1"),
        ({"length": 0}, "length must be at least 1"),
        ({"sampling": "first", "seed": 3}, "draws nothing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tokenizer, change, sentence):
    settings = {"sequences": 2, "length": 4, "sampling": "spread", "seed": 0, **change}
    with pytest.raises(InputError, match=sentence):
        calibration_windows(documents(40), tokenizer, **settings)
