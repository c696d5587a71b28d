"""params.yaml as typed values, and what is said of wrong ones."""

import copy

import pytest
import torch

from pruning_core.errors import InputError
from pruning_core.settings.recipe import parse_settings

GOOD = {
    "model": "models/x",
    "calibration": {"text": {"name": "stdlib", "split": "train"}, "sequences": 4, "length": 16},
    "evaluation": {"text": {"name": "stdlib", "split": "test"}, "length": 16, "windows": 3},
    "variants": {
        "wanda-50": {
            "saliency": {"name": "wanda"},
            "pattern": {"name": "unstructured", "scope": "row"},
            "sparsity": 0.5,
        }
    },
}
COLUMN = {"importance": {"name": "column"}, "ratio": 0.2}
SPARSE = {"name": "sparse_finetune", "steps": 10}


def changed(path: str, value) -> dict:
    mapping = copy.deepcopy(GOOD)
    place = mapping
    *parents, last = path.split("/")
    for part in parents:
        place = place[part]
    place[last] = value
    return mapping


def test_a_good_file_becomes_typed_values():
    settings = parse_settings(GOOD)
    recipe = settings.recipe("wanda-50")
    assert (settings.calibration.sequences, settings.evaluation.windows) == (4, 3)
    assert (recipe.method.saliency.name, recipe.method.sparsity, recipe.propagate) == ("wanda", 0.5, "compressed")


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("calibratoin", {}, "calibratoin is not a known key .did you mean 'calibration'"),
        ("calibration/lenght", 3, "calibration.lenght is not a known key .did you mean 'length'"),
        ("calibration/length", "1e3", "calibration.length is the text '1e3'"),
        ("calibration/length", 0, "calibration.length"),
        ("calibration/sampling", "random", "calibration.sampling"),
        ("calibration/text", {"name": "wikitex2"}, "not a known text"),
        ("calibration/batch", 0, "calibration.batch"),
        ("compute", "gpu", "compute must be a mapping"),
        ("compute", {"divice": "cpu"}, "compute.divice is not a known key .did you mean 'device'"),
        ("compute", {"device": "gpu"}, "compute.device"),
        ("compute", {"dtype": "float64"}, "compute.dtype"),
        ("compute", {"states": "disk"}, "compute.states"),
        (
            "compute",
            {"shards": 2, "shard_workers": {"name": "dask"}},
            "compute.shard_workers was removed, .* remove the key, .* torchrun",
        ),
        ("variants/wanda-50/sparcity", 0.5, "did you mean 'sparsity'"),
        ("variants/wanda-50/propagate", "densely", "did you mean 'dense'"),
        ("variants/dense", {}, "always means the uncompressed model"),
        ("variants/Wanda 50", {}, "lower-case letters"),
        ("variants/wanda.50", {}, "lower-case letters"),
        ("variants", {}, "at least one"),
        ("variants/wanda-50/kernel", "torch", "kernel changes nothing"),
        ("variants/wanda-50/compensation", {"name": "none", "damping": 0.1}, "compensation.damping changes nothing"),
        ("variants/wanda-50/compensation", {"name": "none", "block": 64}, "compensation.block changes nothing"),
        (
            "variants/wanda-50",
            {
                "saliency": {"name": "magnitude"},
                "pattern": {"name": "unstructured", "scope": "matrix"},
                "sparsity": 0.5,
                "propagate": "dense",
            },
            "propagate changes nothing",
        ),
        (
            "variants/wanda-50",
            {
                "saliency": {"name": "magnitude"},
                "pattern": {"name": "unstructured", "scope": "matrix"},
                "sparsity": 0.5,
                "few_tokens": "layer",
            },
            "few_tokens changes nothing",
        ),
        ("variants/wanda-50/few_tokens", "layers", "one of layer, magnitude, got 'layers' .did you mean 'layer'"),
        ("variants/wanda-50/few_tokens", ["layer"], "one of layer, magnitude"),
        (
            "variants/wanda-50/pattern",
            {"name": "unstructured", "scope": "matrix", "rounding": "floor"},
            "rounding floor goes with scope row, not matrix",
        ),
        (
            "variants/wanda-50/pattern",
            {"name": "unstructured", "scope": "row", "rounding": "published"},
            "rounding published goes with scope block or matrix",
        ),
        ("variants/wanda-50/max_fallbacks", 1, "max_fallbacks changes nothing"),
        ("variants/wanda-50/max_fallbacks", -1, "max_fallbacks must be a whole number of matrices"),
        ("variants/wanda-50/max_fallbacks", True, "max_fallbacks must be a whole number of matrices"),
        ("variants/wanda-50/max_fallback", 1, "did you mean 'max_fallbacks'"),
        ("variants/wanda-50/allocation", "owl", "allocation must be a mapping .name: ...."),
        ("variants/wanda-50/allocation", {"name": "olw"}, "not a known allocation .did you mean 'owl'"),
        ("variants/wanda-50/allocation", {"name": "owl", "lambda": 1}, "allocation.lambda is not a known key"),
        ("variants/wanda-50/allocation", {"name": "owl", "strength": 0.9}, "allocation.strength"),
        (
            "variants/wanda-50/allocation",
            {"name": "by_sensitivity", "sensitivity": {"name": "fisher", "labels": "drawn"}},
            "wanda-50.allocation.sensitivity.labels",
        ),
        ("variants/wanda-50/allocation", {"name": "by_sensitivity", "high": 0.3}, "allocation: no allocation between"),
        (
            "variants/wanda-50",
            GOOD["variants"]["wanda-50"]
            | {"pattern": {"name": "unstructured", "scope": "row", "rounding": "floor"}, "allocation": {"name": "owl"}},
            "allocation needs the pattern unstructured with rounding exact",
        ),
        (
            "variants/wanda-50",
            GOOD["variants"]["wanda-50"] | {"sparsity": 0.0, "allocation": {"name": "owl"}},
            "nothing to allocate; remove the key",
        ),
        ("variants/wanda-50", {"structured": 0.2}, "structured must be a mapping with the keys importance"),
        ("variants/wanda-50", {"structured": {"ratio": 0.2}}, "structured.importance is missing; names: both, column"),
        ("variants/wanda-50", {"structured": COLUMN | {"ration": 0.2}}, "did you mean 'ratio'"),
        ("variants/wanda-50", {"structured": {"importance": {"name": "column"}}}, "structured.ratio is missing"),
        ("variants/wanda-50", {"structured": COLUMN | {"importance": {"name": "colum"}}}, "did you mean 'column'"),
        ("variants/wanda-50", {"structured": COLUMN | {"scope": "global"}}, "choose mode heterogeneous"),
        ("variants/wanda-50", {"structured": COLUMN | {"families": ["mlps"]}}, "families must be a list of mlp"),
        ("variants/wanda-50", {"structured": COLUMN | {"families": []}}, "families must be a list of mlp"),
        (
            "variants/wanda-50",
            {"structured": COLUMN | {"families": ["attention", "query"]}},
            "not both attention and query",
        ),
        (
            "variants/wanda-50",
            {"structured": COLUMN | {"reconstruction": {"form": "absorb"}}},
            "structured.reconstruction.form",
        ),
        (
            "variants/wanda-50",
            {"structured": COLUMN | {"reconstruction": "static"}},
            "reconstruction must be a mapping",
        ),
        ("variants/wanda-50/structured", COLUMN, "wanda-50.saliency is of methods that compress matrices"),
        ("variants/wanda-50/recovery", {"name": "lorra"}, "did you mean 'lora'"),
        ("variants/wanda-50/recovery", "lora", "recovery must be a mapping .name: ...."),
        ("variants/wanda-50/recovery", {"name": "masked_lora", "rnk": 4}, "did you mean 'rank'"),
        ("variants/wanda-50/recovery", SPARSE | {"checkpoint_every": 0}, "checkpoint_every must be a whole number"),
        ("variants/wanda-50/recovery", SPARSE | {"data": []}, "recovery.data must be a mapping"),
        ("variants/wanda-50/recovery", SPARSE | {"data": {"sequence": 3}}, "did you mean 'sequences'"),
        ("variants/wanda-50/recovery", SPARSE | {"data": {"overlap": "keep"}}, "recovery.data.overlap"),
        ("variants/wanda-50/recovery", SPARSE | {"data": {"text": {"name": "wiki"}}}, "not a known text"),
        (
            "variants/wanda-50",
            GOOD["variants"]["wanda-50"] | {"quantizer": {"name": "affine", "bits": 4}, "recovery": SPARSE},
            "recovery would train weights off the quantizer's grids",
        ),
        ("model", None, "model must be a directory or a hub id"),
        ("trust_remote_code", "yes", "must be true or false"),
    ],
)
def test_wrong_settings_are_told_in_one_sentence(path, value, sentence):
    with pytest.raises(InputError, match=sentence) as raised:
        parse_settings(changed(path, value))
    assert "\n" not in str(raised.value)


def test_an_allocation_may_read_the_text_that_the_method_does_not():
    magnitude = {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5}

    def reads(spec: dict) -> tuple[bool, bool]:
        recipe = parse_settings(changed("variants/wanda-50", magnitude | {"allocation": spec})).recipe("wanda-50")
        assert "allocation" not in recipe.method_spec
        return recipe.calibrates, recipe.reads_calibration_text

    fisher = {"name": "by_sensitivity", "sensitivity": {"name": "fisher"}}
    assert reads(fisher) == (False, True) and reads({"name": "owl"}) == (False, True)
    assert reads({"name": "by_sensitivity", "sensitivity": {"name": "spectral"}}) == (False, False)
    assert reads({"name": "knapsack"}) == (False, True) and reads({"name": "uniform"}) == (False, False)


def test_a_variant_that_is_made_smaller_and_trained_has_no_method():
    spec = {"structured": COLUMN | {"reconstruction": {"form": "static"}}, "recovery": {"name": "lora", "steps": 200}}
    recipe = parse_settings(changed("variants/wanda-50", spec)).recipe("wanda-50")
    assert recipe.method is None and not recipe.calibrates and recipe.reads_calibration_text
    assert recipe.structured.families == ("mlp", "attention") and recipe.structured.ranking.ratio == 0.2
    assert recipe.structured.ranking_spec == {"ratio": 0.2} and recipe.recovery.method.name == "lora"
    assert recipe.compression_spec == {"structured": spec["structured"]}
    assert recipe.recovery.spec == spec["recovery"] and recipe.recovery.data.overlap == "refuse"


@pytest.mark.parametrize(("importance", "reads"), [("magnitude", False), ("random", False), ("taylor", True)])
def test_structured_pruning_reads_text_where_its_importance_does(importance: str, reads: bool):
    spec = {"structured": COLUMN | {"importance": {"name": importance}}}
    assert parse_settings(changed("variants/wanda-50", spec)).recipe("wanda-50").reads_calibration_text == reads


def test_the_text_of_a_recovery_is_no_part_of_the_training_and_the_training_none_of_the_compression():
    data = {"sequences": 8, "overlap": "drop"}
    spec = GOOD["variants"]["wanda-50"] | {"recovery": SPARSE | {"data": data, "checkpoint_every": 7}}
    recipe = parse_settings(changed("variants/wanda-50", spec)).recipe("wanda-50")
    assert recipe.recovery.spec == SPARSE and recipe.recovery.checkpoint_every == 7
    assert (recipe.recovery.data.sequences, recipe.recovery.data.validation) == (8, 32)
    assert recipe.compression_spec == GOOD["variants"]["wanda-50"] and "recovery" not in recipe.method_spec


def test_a_missing_section_is_named():
    mapping = {key: value for key, value in GOOD.items() if key != "evaluation"}
    with pytest.raises(InputError, match="evaluation is missing"):
        parse_settings(mapping)


def test_an_unknown_variant_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="did you mean 'wanda-50'"):
        parse_settings(GOOD).recipe("wnada-50")


def test_a_kernel_has_to_run_on_the_device_of_the_section_compute(monkeypatch):
    mapping = changed("variants/wanda-50/compensation", {"name": "sweep"})
    mapping["variants"]["wanda-50"]["kernel"] = "numba"
    assert parse_settings(mapping | {"compute": {"device": "cpu"}}).recipe("wanda-50").method.kernel == "numba"
    with pytest.raises(InputError, match="numba kernel runs on the CPU, not on cuda"):
        parse_settings(mapping | {"compute": {"device": "cuda"}})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(InputError, match="numba kernel runs on the CPU, not on cuda"):
        parse_settings(mapping | {"compute": {"device": "auto"}})
