"""Variants made by workers: the digests of one process, whoever works; a variant that fails stops no other."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# The worker of a sweep expands its axes anew; 5 divides none of the tiny model's widths.
SWEEP = ("sweep", "--methods", "sparsegpt-50,magnitude-50", "--patterns", "2:4,3:5", "--bits", "none", "--json")
NEEDED = {"dask": "prefect_dask", "ray": "prefect_ray"}


def digests(records: list[dict[str, Any]]) -> dict[str, str]:
    return {record["name"]: record["model"]["digest"] for record in records}


def steps(records: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Every step of the variants with its state, in an order of its own; speeds are measured by this process."""
    return sorted(
        (step["label"], step["state"])
        for record in records[1:]
        for step in record["steps"]
        if not step["label"].endswith(" speed")
    )


OWN = """from pruning_core.saliency import SALIENCIES


@SALIENCIES.register("own")
class Own:
    needs = frozenset({"hessian_diag"})

    def column_scale(self, columns, in_features):
        return columns.hessian_diag.sqrt()
"""


@pytest.fixture(scope="module")
def make_own(make_workspace) -> Callable[[], Path]:
    """make_own() -> a workspace with a method of its own, and a variant by it beside the others."""

    def make() -> Path:
        root = make_workspace()
        (root / "own.py").write_text(OWN)
        params = yaml.safe_load((root / "params.yaml").read_text()) | {"plugins": ["own.py"]}
        params["variants"]["own-50"] = {
            "saliency": {"name": "own"},
            "pattern": {"name": "unstructured"},
            "sparsity": 0.5,
        }
        (root / "params.yaml").write_text(yaml.safe_dump(params))
        return root

    return make


@pytest.fixture(scope="module")
def alone(espalier, make_own) -> list[dict[str, Any]]:
    done = espalier(make_own(), "compare", "--json")
    assert done.code == 0, done
    return json.loads(done.out)["records"]


# Both kinds of runner are in the daily suite: threads where variants fail, processes where all are made.
LONG = pytest.mark.long


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("threads", marks=LONG),
        "processes",
        pytest.param("dask", marks=LONG),
        pytest.param("ray", marks=LONG),
    ],
)
def test_two_workers_reach_the_digests_of_one_process(espalier, make_own, alone, name: str):
    if name in NEEDED and find_spec(NEEDED[name]) is None:
        pytest.skip(f"{NEEDED[name]} is not installed: pip install 'espalier[{name}]'")
    root = make_own()
    done = espalier(root, "compare", "--json", "--set", f"compute.variants={{name: {name}, count: 2}}")
    assert done.code == 0, done
    records = json.loads(done.out)["records"]
    assert set(digests(records)) == {"dense", "sparsegpt-50", "magnitude-50", "own-50"}
    assert digests(records) == digests(alone)
    assert steps(records) == steps(alone)


@pytest.mark.parametrize("name", ["threads", pytest.param("processes", marks=LONG)])
def test_a_variant_that_fails_on_a_worker_is_told_and_stops_no_other(espalier, make_workspace, name: str):
    root = make_workspace()
    done = espalier(root, *SWEEP, "--set", f"compute.variants={{name: {name}, count: 2}}")
    result = json.loads(done.out)
    assert done.code == 1 and set(result["failed"]) == {"sparsegpt-3of5", "magnitude-3of5"}
    assert all("divisible by 5" in why for why in result["failed"].values())
    assert set(digests(result["records"])) == {"dense", "sparsegpt-2of4", "magnitude-2of4"}


def test_a_comparison_that_cannot_be_whole_ends_with_the_reason(espalier, make_workspace):
    root: Path = make_workspace()
    pattern = "variants.magnitude-50.pattern={name: n_of_m, n: 3, m: 5}"
    settings = ["--set", "compute.variants={name: threads, count: 2}", "--set", pattern]
    done = espalier(root, "compare", *settings, "--set", "variants.magnitude-50.sparsity=null")
    assert done.code != 0 and "divisible by 5" in done.err and "Traceback" not in done.err, done
    again = espalier(root, "compress", "sparsegpt-50")
    assert "cached" in next(line for line in again.err.splitlines() if line.endswith("sparsegpt-50 block 0"))
