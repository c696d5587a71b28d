"""The key evaluation.samples: what it means, and what is said of wrong ones."""

import pytest

from pruning_core.errors import InputError
from pruning_core.settings.recipe import parse_settings
from pruning_core.settings.samples import build_samples

TEXT = {"name": "stdlib", "split": "test"}


def settings(samples) -> dict:
    variant = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5}
    evaluation = {"text": TEXT, "length": 64, "windows": 5, "samples": samples}
    return {"model": "m", "calibration": {"text": TEXT}, "evaluation": evaluation, "variants": {"half": variant}}


def test_an_empty_mapping_is_three_beginnings_of_32_tokens_and_48_more():
    chosen = build_samples({}, 256, None)
    assert (chosen.windows, chosen.beginning, chosen.new_tokens) == (3, 32, 48)
    assert build_samples({"texts": ["def f("]}, 8, 1).windows == 0
    assert parse_settings(settings(None)).evaluation.samples is None


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        (True, r"samples: input should be a valid dictionary, got True"),
        ({"prompt": 3}, r"samples\.prompt is not a known key \(did you mean 'prompts'\?\)"),
        ({"prompts": 0}, r"samples\.prompts: .* 1, got 0"),
        ({"prompts": 6}, r"samples\.prompts is 6, and evaluation\.windows gives 5 windows"),
        ({"prompt_tokens": 65}, r"samples\.prompt_tokens is 65, and evaluation\.length gives windows of 64"),
        ({"new_tokens": "8"}, r"samples\.new_tokens is the text '8' where a number is needed"),
        ({"texts": ["def f("], "prompts": 2}, "prompts and prompt_tokens change nothing; remove them"),
        ({"texts": []}, "at least one prompt"),
        ({"texts": ["def f(", " \n"]}, "none of them empty"),
    ],
)
def test_wrong_settings_are_told_with_what_is_allowed(samples, told: str):
    with pytest.raises(InputError, match=told):
        parse_settings(settings(samples))
