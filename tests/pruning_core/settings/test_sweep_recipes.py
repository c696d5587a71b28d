"""A sweep as recipes: which combinations it makes, their names, and what it leaves out."""

import pytest

from pruning_core.errors import InputError
from pruning_core.settings.recipe import parse_recipe
from pruning_core.settings.sweep import parse_sweep
from pruning_core.settings.sweep_recipes import expanded

TWO_OF_FOUR = {"name": "n_of_m", "n": 2, "m": 4}
SPECS = {
    "sparsegpt-50": {
        "saliency": {"name": "obs"},
        "pattern": {"name": "unstructured", "scope": "block"},
        "sparsity": 0.5,
        "compensation": {"name": "sweep"},
    },
    "sparsegpt-2of4": {"saliency": {"name": "obs"}, "pattern": TWO_OF_FOUR, "compensation": {"name": "sweep"}},
    "wanda-50": {
        "saliency": {"name": "wanda"},
        "pattern": {"name": "unstructured", "scope": "row"},
        "sparsity": 0.5,
        "allocation": {"name": "owl"},
    },
    "gptq-4": {"quantizer": {"name": "affine", "bits": 4, "symmetric": True}, "compensation": {"name": "sweep"}},
    "narrow-20": {"structured": {"importance": {"name": "magnitude"}, "ratio": 0.2}},
    "gradual-80": {"recovery": {"name": "iterative_magnitude", "sparsity": 0.8}},
}
VARIANTS = {name: parse_recipe(name, spec) for name, spec in SPECS.items()}


def sweep(**axes):
    return expanded(parse_sweep(axes), VARIANTS)


def test_a_method_is_made_at_every_sparsity_pattern_and_number_of_bits():
    found = sweep(methods=["sparsegpt-50"], sparsities=[0.5, 0.625], patterns=[TWO_OF_FOUR], bits=[None, 4])
    base, coded = SPECS["sparsegpt-50"], {"quantizer": {"name": "affine", "bits": 4}}
    fixed = {key: value for key, value in base.items() if key != "sparsity"} | {"pattern": TWO_OF_FOUR}
    assert {name: recipe.spec for name, recipe in found.recipes.items()} == {
        "sparsegpt-50": base,
        "sparsegpt-50-int4": base | coded,
        "sparsegpt-62_5": base | {"sparsity": 0.625},
        "sparsegpt-62_5-int4": base | {"sparsity": 0.625} | coded,
        "sparsegpt-2of4": fixed,
        "sparsegpt-2of4-int4": fixed | coded,
    }
    assert found.skipped == []


def test_equal_recipes_of_two_methods_are_one_variant():
    found = sweep(methods=["sparsegpt-50", "sparsegpt-2of4"], sparsities=[0.5], patterns=[TWO_OF_FOUR])
    assert list(found.recipes) == ["sparsegpt-50", "sparsegpt-2of4"]


def test_two_recipes_never_share_a_name():
    other = VARIANTS | {"sparsegpt-60": parse_recipe("sparsegpt-60", SPECS["wanda-50"])}
    found = expanded(parse_sweep({"methods": ["sparsegpt-50", "sparsegpt-60"], "sparsities": [0.6]}), other)
    assert {name: recipe.spec["saliency"]["name"] for name, recipe in found.recipes.items()} == {
        "sparsegpt-50-60": "obs",
        "sparsegpt-60-60": "wanda",
    }


def test_a_pattern_given_by_name_keeps_the_settings_that_a_method_has_for_it():
    found = sweep(methods=["wanda-50"], patterns=[{"name": "unstructured"}])
    assert [recipe.spec for recipe in found.recipes.values()] == [SPECS["wanda-50"]]


def test_sparsities_are_ratios_of_structured_pruning_and_of_pruning_while_training():
    found = sweep(methods=["narrow-20", "gradual-80"], sparsities=[0.3, 0.5])
    amounts = {
        name: recipe.spec.get("structured", {}).get("ratio") or recipe.spec["recovery"]["sparsity"]
        for name, recipe in found.recipes.items()
    }
    assert amounts == {"narrow-30": 0.3, "narrow-50": 0.5, "gradual-30": 0.3, "gradual-50": 0.5}


def test_bits_vary_a_quantizer_that_is_there_and_keep_its_other_settings():
    found = sweep(methods=["gptq-4"], bits=[3, 4])
    assert found.recipes["gptq-int3"].spec["quantizer"] == {"name": "affine", "bits": 3, "symmetric": True}
    assert set(found.recipes) == {"gptq-int3", "gptq-4"}


@pytest.mark.parametrize(
    ("method", "axes", "reason"),
    [
        ("narrow-20", {"patterns": [TWO_OF_FOUR]}, "patterns do not apply"),
        ("narrow-20", {"bits": [4]}, "bits do not apply"),
        ("gptq-4", {"sparsities": [0.5]}, "sparsities do not apply"),
        ("sparsegpt-2of4", {"sparsities": [0.6]}, "fixes how much goes"),
        ("sparsegpt-2of4", {"patterns": [{"name": "unstructured"}, TWO_OF_FOUR]}, "sparsity is missing"),
        ("gptq-4", {"bits": [None, 4]}, "pattern is missing"),
        ("wanda-50", {"sparsities": [0.5], "patterns": [{"name": "block", "rows": 2, "columns": 2}]}, "allocation"),
    ],
)
def test_what_does_not_apply_is_left_out_with_the_reason(method: str, axes: dict, reason: str):
    found = sweep(methods=[method], **axes)
    assert found.recipes
    [(what, why)] = found.skipped
    assert what.startswith(method) and reason in why and "variants." not in why


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"methods": ["sparsgpt-50"]}, "sparsgpt-50.*did you mean 'sparsegpt-50'"),
        ({"sparsities": [1.5]}, "sweep.sparsities.*1.5"),
        ({"sparsities": ["5e-1"]}, "text '5e-1'.*write 0.5"),
        ({"bits": [16]}, "sweep.bits.*16"),
        ({"patterns": [{"name": "n_of_n"}]}, "did you mean 'n_of_m'"),
        ({"spars": [0.5]}, "sweep.spars .*did you mean 'sparsities'"),
        ({"methods": ["gptq-4"], "bits": [None]}, "no combination that can be.*pattern is missing"),
    ],
)
def test_what_makes_no_sense_is_refused(axes: dict, sentence: str):
    with pytest.raises(InputError, match=sentence):
        sweep(**axes)
