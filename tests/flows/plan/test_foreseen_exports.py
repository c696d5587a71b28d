"""What is refused before a variant is made is refused of the variant that was made, in the same sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pipelines import pipeline_of
from transformers import GPT2Config, GPT2LMHeadModel, MixtralConfig

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.export.onnx import packages
from pruning_core.plan.preview import previewed
from pruning_core.settings.recipe import BASELINE
from tasks.pipeline.variant import Pipeline
from tasks.steps.export import stored_model

MANY = {"name": "sparse", "encoding": "n_of_m"}
FORMS = {
    "plain": {"name": "safetensors"},
    "sparse": {"name": "sparse"},
    "bitmask": {"name": "sparse", "encoding": "bitmask"},
    "codes": {"name": "sparse", "encoding": "codes"},
    "2:4": MANY | {"n": 2, "m": 4},
    "4:8": MANY | {"n": 4, "m": 8},
    "2:5": MANY | {"n": 2, "m": 5},
    "n:m": MANY,
    "packed": {"name": "compressed_tensors"},
    "gptq": {"name": "gptq"},
    "gptq-v1": {"name": "gptq", "checkpoint_format": "gptq"},
    "gguf": {"name": "gguf"},
    "onnx": {"name": "onnx"},
}
SHIPPED = Path(__file__).resolve().parents[3] / "models" / "stdlib-2.8m"
EARLY, LATE = "early", "late"
"""When a format is refused; what is not named is not refused."""
NO_CODES = {"packed": EARLY, "gptq": EARLY, "gptq-v1": EARLY, "codes": EARLY}
NO_PATTERN = {"2:5": EARLY, "2:4": LATE, "4:8": LATE, "n:m": LATE}
SWEEP = {"name": "sweep", "block": 8}
HALF = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured", "scope": "matrix"}, "sparsity": 0.5}
PAIRED = {"saliency": {"name": "magnitude"}, "pattern": {"name": "n_of_m", "n": 2, "m": 4}}
SMALLER = {"importance": {"name": "column"}, "ratio": 0.2, "of": "blocks", "multiple": 4}
UNEVEN = SMALLER | {"mode": "heterogeneous", "scope": "global", "protect_first": 0, "protect_last": 0}
TRAINED = {"name": "sparse_finetune", "steps": 2, "batch": 4, "data": {"sequences": 12, "validation": 3}}


def int_(bits: int = 4, **settings: Any) -> dict[str, Any]:
    return {"quantizer": {"name": "affine", "bits": bits, **settings}}


NARROW: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    # Of so few groups of 8 each has lost a weight.
    "half": (HALF, NO_CODES | {"2:4": EARLY, "4:8": EARLY, "2:5": EARLY}),
    "fewer": (HALF | {"sparsity": 0.3}, NO_CODES | {"2:4": EARLY, "4:8": EARLY, "2:5": EARLY, "n:m": LATE}),
    "more": (HALF | {"sparsity": 0.6}, NO_CODES | {"2:4": LATE, "4:8": LATE, "2:5": EARLY}),
    "paired": (PAIRED, NO_CODES | {"2:5": EARLY}),
    "one-of-four": (PAIRED | {"pattern": {"name": "n_of_m", "n": 1, "m": 4}}, NO_CODES | {"2:5": EARLY}),
    "three-of-four": (
        PAIRED | {"pattern": {"name": "n_of_m", "n": 3, "m": 4}},
        NO_CODES | {"2:4": EARLY, "4:8": EARLY, "2:5": EARLY},
    ),
    "trained": (HALF | {"recovery": TRAINED}, NO_CODES | {"2:4": LATE, "4:8": LATE, "2:5": EARLY}),
    "owl": (HALF | {"allocation": {"name": "owl"}}, NO_CODES | {"2:4": LATE, "4:8": LATE, "2:5": EARLY}),
    "int4": (int_(symmetric=True), NO_PATTERN | {"gptq": EARLY, "gptq-v1": EARLY}),
    "groups-of-10": (int_(group_size=10), NO_PATTERN | {"packed": EARLY, "gptq": EARLY, "gptq-v1": EARLY}),
    "narrow-groups": (int_(group_size=8), NO_PATTERN | {"packed": EARLY, "gptq": EARLY, "gptq-v1": EARLY}),
    "smaller": ({"structured": SMALLER}, NO_CODES | {"2:4": LATE, "4:8": LATE, "2:5": LATE, "n:m": LATE}),
    "uneven": ({"structured": UNEVEN}, NO_CODES | {"2:4": LATE, "4:8": LATE, "2:5": LATE, "n:m": LATE, "gguf": EARLY}),
    BASELINE: ({}, {"packed": EARLY, "gptq": EARLY, "gptq-v1": EARLY}),
}
"""Recipe and refusals on the tiny model of the tests, widths 16 and 24, whose tokenizer GGUF cannot hold."""
WIDE: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "int4": (int_(group_size=32, symmetric=True), NO_PATTERN),
    "asymmetric": (int_(group_size=32), NO_PATTERN),
    "int5": (int_(5, symmetric=True), NO_PATTERN | {"gptq": EARLY, "gptq-v1": EARLY}),
    "uneven-groups": (int_(8, group_size=24, symmetric=True), NO_PATTERN | {"packed": EARLY}),
    "some-uneven": (int_(8, group_size=128, symmetric=True), NO_PATTERN | {"packed": EARLY}),
    "permuted": (
        int_(3, group_size=16, order="activation") | {"compensation": SWEEP},
        NO_PATTERN | {"packed": EARLY, "gptq-v1": LATE},
    ),
    "permuted-rows": (int_(symmetric=True, order="activation") | {"compensation": SWEEP}, NO_PATTERN),
    "static": (
        int_(symmetric=True, group_size=16, order="activation", static_groups=True) | {"compensation": SWEEP},
        NO_PATTERN,
    ),
    "pruned-int4": (
        PAIRED | int_(group_size=32, symmetric=True),
        {"2:5": EARLY},
    ),
    "uneven": ({"structured": UNEVEN}, NO_CODES | {"2:4": LATE, "4:8": LATE, "2:5": LATE, "n:m": LATE}),
    BASELINE: ({}, {"packed": EARLY, "gptq": EARLY, "gptq-v1": EARLY}),
}
"""On the shipped model, whose widths are multiples of 32, and which GGUF can hold."""


def refusal(look: Any, model: StoredModel) -> str | None:
    try:
        look(model)
    except InputError as error:
        return str(error)
    return None


def refusals(pipeline: Pipeline, name: str, spec: dict[str, Any]) -> tuple[str | None, str | None]:
    """What is said before a variant is made, and of the one that was made."""
    form = FORMATS.build(spec)
    recipe = None if name == BASELINE else pipeline.settings.recipe(name)
    early = refusal(form.foresee, previewed(pipeline.source.path, recipe))
    return early, refusal(form.check, stored_model(pipeline.model(name)))


def compare(pipeline: Pipeline, name: str, expected: dict[str, str]) -> None:
    moments, sentences = {}, {}
    for label, spec in FORMS.items():
        early, late = sentences[label] = refusals(pipeline, name, spec)
        assert early is None or early == late, label
        if late:
            moments[label] = EARLY if early else LATE
    assert moments == expected, sentences


@pytest.fixture(autouse=True)
def with_packages(monkeypatch) -> None:
    """What an optional package would have to write is refused for what it is, whether or not the package is there."""
    monkeypatch.setattr(packages, "is_installed", lambda: True)


@pytest.fixture
def with_recipes(workspace_root: Path):
    """Puts variants, and a model, into params.yaml."""

    def put(recipes: dict[str, dict[str, Any]], model: Path | None = None) -> Pipeline:
        params = yaml.safe_load((workspace_root / "params.yaml").read_text())
        params["variants"] |= recipes
        params |= {"model": str(model)} if model else {}
        (workspace_root / "params.yaml").write_text(yaml.safe_dump(params))
        return pipeline_of(workspace_root)[0]

    return put


@pytest.mark.parametrize("name", NARROW)
def test_on_narrow_matrices_early_and_late_refusals_agree(with_recipes, name: str):
    recipe, wanted = NARROW[name]
    compare(with_recipes({} if name == BASELINE else {name: recipe}), name, wanted | {"gguf": EARLY})


@pytest.mark.parametrize("name", WIDE)
def test_on_the_shipped_model_early_and_late_refusals_agree(with_recipes, name: str):
    recipe, wanted = WIDE[name]
    compare(with_recipes({} if name == BASELINE else {name: recipe}, SHIPPED), name, wanted)


@pytest.mark.parametrize(
    ("fused", "symmetric", "early", "said"),
    [
        (False, False, {"packed", "gptq"}, "with symmetric grids alone"),
        (False, True, {"gptq"}, ""),
        (True, True, {"packed", "gptq", "codes"}, "as a tensor [outputs, inputs] of its own"),
    ],
)
def test_experts_are_refused_as_their_checkpoint_stores_them(
    with_recipes, mixture_directory, fused: bool, symmetric: bool, early: set[str], said: str
):
    model = mixture_directory(MixtralConfig, num_local_experts=3, fused=fused)
    pipeline = with_recipes({"int4": int_(group_size=8, symmetric=symmetric)}, model)
    told = {label: refusals(pipeline, "int4", FORMS[label]) for label in ("packed", "gptq", "codes")}
    assert {label for label, (before, _) in told.items() if before} == early
    assert all(before is None or before == after for before, after in told.values())
    assert said in (told["packed"][0] or "")


def test_weights_that_are_stored_transposed_are_refused_before_they_are_quantized(with_recipes, tiny_directory):
    network = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=50, n_positions=32))
    network.save_pretrained(tiny_directory)
    pipeline = with_recipes({"int4": int_(symmetric=True)})
    for label in ("packed", "gptq", "codes", "gguf", "onnx"):
        early, late = refusals(pipeline, "int4", FORMS[label])
        assert early == late is not None, label
    assert "weights stored transposed" in refusals(pipeline, "int4", FORMS["packed"])[0]


def test_a_recipe_that_starts_from_another_variant_is_refused_for_what_that_variant_is(with_recipes):
    """Of a pruned one the zeros may be N:M though the recipe does not say so; of an uneven one the blocks stay so."""
    first = with_recipes({"paired": PAIRED, "uneven": {"structured": UNEVEN}})
    paired, uneven = first.model("paired").path, first.model("uneven").path
    pipeline = with_recipes({"again": HALF, "int4": int_(symmetric=True)}, paired)
    assert refusals(pipeline, "again", FORMS["2:4"]) == (None, None)
    assert refusals(pipeline, "again", FORMS["2:5"])[0] is not None
    early, late = refusals(with_recipes({}, uneven), "int4", FORMS["packed"])
    assert early == late and "differ in width" in early
