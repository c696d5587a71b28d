"""The axes of a sweep as written: on the command line, in params.yaml, and both."""

from pathlib import Path

import pytest
import yaml

from flows.sweep_variants import axes_of, expand_sweep
from pruning_core.errors import InputError
from tasks.workspace.workspace import Workspace

TWO_OF_FOUR = {"name": "n_of_m", "n": 2, "m": 4}


def test_values_stand_between_commas_or_in_repeated_options():
    axes = axes_of(
        ["a,b", "c"], ["0.5, 0.6"], ["2:4,unstructured", "{name: block, rows: 4, columns: 4}"], ["none,4", "3"]
    )
    assert axes == {
        "methods": ["a", "b", "c"],
        "sparsities": [0.5, 0.6],
        "patterns": [TWO_OF_FOUR, {"name": "unstructured"}, {"name": "block", "rows": 4, "columns": 4}],
        "bits": [None, 4, 3],
    }
    assert axes_of(None, [], None, None) == {}


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ((None, ["half"], None, None), "--sparsities 'half' is not a number"),
        ((None, None, None, ["4.5"]), "--bits '4.5' is not a whole number"),
        ((None, None, ["{name"], None), "--patterns '{name' is not a pattern"),
    ],
)
def test_what_is_no_value_is_told(axes: tuple, sentence: str):
    with pytest.raises(InputError, match=sentence):
        axes_of(*axes)


def test_an_option_takes_the_place_of_the_same_axis_in_params_alone(workspace_root: Path):
    params = yaml.safe_load((workspace_root / "params.yaml").read_text())
    params["sweep"] = {"methods": ["sparsegpt-50"], "sparsities": [0.3, 0.4], "bits": [4]}
    (workspace_root / "params.yaml").write_text(yaml.safe_dump(params))
    made, skipped = expand_sweep(Workspace.open(workspace_root), {"sparsities": [0.6]})
    assert list(made.settings.variants) == ["sparsegpt-60-int4"] and skipped == []
    overridden = Workspace.open(workspace_root, ["sweep.bits=[null]"])
    assert list(expand_sweep(overridden, {})[0].settings.variants) == ["sparsegpt-30", "sparsegpt-40"]


def test_without_any_axis_there_is_nothing_to_sweep(workspace_root: Path):
    with pytest.raises(InputError, match="nothing to sweep"):
        expand_sweep(Workspace.open(workspace_root), {})
