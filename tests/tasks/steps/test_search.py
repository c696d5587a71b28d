"""The search as a step: the same result whoever works and however often it is killed, and the variant it leads to."""

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from flows.actions.search import search_variant
from flows.console.progress_bars import show_bars
from pruning_core.errors import InputError
from pruning_core.search.level_store import LevelStore
from pruning_core.settings.recipe import parse_settings
from tasks.lineage.collect_record import variant_record
from tasks.pipeline.variant import Pipeline
from tasks.report.drawings import draw_search
from tasks.steps.levels import WEIGHTS
from tasks.steps.search import RESULT
from tasks.store.artifact import Artifact
from tasks.tracking.runs import find_runs, track_variant
from tasks.workspace.workspace import Workspace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
SEARCH = {
    "name": "evolutionary",
    "generations": 6,
    "offspring": 6,
    "survivors": [3, 1],
    "tokens": [32, 64],
    "length": 16,
    "windows": 12,
    "validation": 4,
    "levels": 6,
    "probes": 3,
    "probe_tokens": 32,
    "population": 8,
    "top": 20,
}
OBS = {
    "saliency": {"name": "obs"},
    "compensation": {"name": "sweep", "block": 8},
    "propagate": "dense",
}
VARIANTS = {
    "swept": OBS | {"pattern": {"name": "unstructured"}, "sparsity": 0.6},
    "masked": {
        "saliency": {"name": "wanda"},
        "pattern": {"name": "unstructured", "scope": "row"},
        "sparsity": 0.6,
        "propagate": "dense",
    },
    "groups": OBS | {"pattern": {"name": "n_of_m", "n": 2, "m": 8}},
    "weights": {
        "saliency": {"name": "magnitude"},
        "pattern": {"name": "unstructured", "scope": "matrix"},
        "sparsity": 0.6,
    },
}


@pytest.fixture
def prepared(workspace_root: Path) -> Callable[..., Path]:
    """Writes params.yaml with the variants, each searched; keywords go into the search, `compute` beside it."""

    def write(compute: dict[str, Any] | None = None, **settings: Any) -> Path:
        params = yaml.safe_load((workspace_root / "params.yaml").read_text())
        search = SEARCH | settings
        params["variants"] = {name: spec | {"allocation": search} for name, spec in VARIANTS.items()}
        params["compute"] = compute or {"workers": {"count": 1}}
        (workspace_root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        return workspace_root

    return write


def searched(root: Path, variant: str = "swept") -> Artifact:
    workspace = Workspace.open(root)
    return Pipeline(workspace.context(), workspace.settings).allocation(variant)


def forget(root: Path, artifact: Artifact) -> None:
    """Delete one artifact from the store."""
    shutil.rmtree(artifact.path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variant_made_with_the_found_shares_holds_the_stored_levels_bit_for_bit(prepared, variant: str):
    root = prepared()
    workspace = Workspace.open(root)
    pipeline = Pipeline(workspace.context(), workspace.settings)
    found, model = pipeline.allocation(variant), pipeline.model(variant)
    blocks = [found.manifest["inputs"][f"levels-{index}"]["key"] for index in range(2)]
    store = LevelStore([workspace.store.find(key).path / WEIGHTS for key in blocks])
    dense, weights = load_file(pipeline.source.path / "model.safetensors"), load_file(model.path / "model.safetensors")
    best = json.loads((found.path / RESULT).read_text())["best"]
    names = [matrix.name for matrix in pipeline.matrices]
    for name, level in zip(names, best, strict=True):
        assert torch.equal(weights[f"{name}.weight"], store.weight(name, level, dense[f"{name}.weight"]))
    total = sum(matrix.size for matrix in pipeline.matrices)
    removed = sum(int((weights[f"{name}.weight"] == 0).sum()) for name in names)
    assert model.facts["parameters"]["removed"] == found.facts["removed"]
    # A kept weight may be quantized to zero in no variant here, and none of the dense ones is zero.
    assert removed == found.facts["removed"]
    assert (
        0
        <= removed - round((0.75 if variant == "groups" else 0.6) * total)
        < (16 * 8 // 8 if variant == "groups" else 1)
    )


@pytest.mark.parametrize("compute", [{"count": 2}, {"name": "processes", "count": 2}])
def test_the_result_is_the_same_whoever_works(prepared, prefect_server, compute: dict):
    root = prepared()
    alone = searched(root)
    forget(root, alone)
    prepared({"workers": compute})
    threads = torch.get_num_threads()
    other = searched(root)
    assert not other.hit and other.key == alone.key and other.digest == alone.digest
    assert torch.get_num_threads() == threads


def test_a_search_that_runs_all_its_generations_shows_them_and_ends(prepared):
    root = prepared(generations=2, patience=2)
    with show_bars():
        found = searched(root)
    assert len(json.loads((found.path / RESULT).read_text())["history"]) == 2


@pytest.mark.long
@pytest.mark.parametrize(("name", "package"), [("dask", "prefect_dask"), ("ray", "prefect_ray")])
def test_workers_of_a_cluster_give_the_same_result(prepared, prefect_server, name: str, package: str):
    pytest.importorskip(package, reason=f"{package} is not installed")
    root = prepared()
    alone = searched(root)
    forget(root, alone)
    prepared({"workers": {"name": name, "count": 2}})
    assert searched(root).digest == alone.digest


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_runner_that_is_not_installed_is_told_with_the_command(prepared, monkeypatch, name: str):
    monkeypatch.setitem(sys.modules, f"prefect_{name}", None)
    with pytest.raises(InputError, match="pip install"):
        searched(prepared({"workers": {"name": name}}))


KILLED = """
import sys
from pathlib import Path
from tasks.pipeline.variant import Pipeline
from tasks.workspace.workspace import Workspace

workspace = Workspace.open(Path(sys.argv[1]))
Pipeline(workspace.context(), workspace.settings).allocation("swept")
"""


def test_a_search_killed_in_the_middle_goes_on_to_the_identical_result(prepared, start):
    root = prepared(generations=40, patience=40)
    process = start(KILLED, root)
    scratch = root / ".espalier" / "scratch"
    deadline = time.monotonic() + 240
    while generation_in(scratch) < 3:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read() if process.poll() else ""
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = generation_in(scratch)
    assert 3 <= reached < 40
    resumed = searched(root)
    history = json.loads((resumed.path / RESULT).read_text())["history"]
    assert [entry["generation"] for entry in history] == list(range(1, len(history) + 1)) and len(history) > reached
    assert not list(scratch.glob(f"*{resumed.key}*"))
    forget(root, resumed)
    assert searched(root).digest == resumed.digest


def generation_in(scratch: Path) -> int:
    """The generation that the one state in the scratch folders has reached; -1 before there is one."""
    states = list(scratch.glob("*/state.json"))
    return json.loads(states[0].read_text())["generation"] if states else -1


def test_the_search_is_not_worse_than_its_starts_and_says_what_it_cost(prepared):
    found = searched(prepared())
    facts = found.facts["search"]
    assert facts["fitness"] <= min(start["fitness"] for start in facts["initial"])
    labels = [start["label"] for start in facts["initial"]]
    assert labels[:5] == ["uniform", "owl", "by_sensitivity fisher", "knapsack relative_output", "knapsack fisher"]
    assert facts["tokens"] > 0 and 0 < facts["forwards_saved"] < 1
    assert {file.name for file in found.path.iterdir()} == {"manifest.json", "run.json", "search.json", "shares.json"}
    page = draw_search(found.path)
    assert "search-0" in page and "search-1" in page and "src=" not in page.split("</script>")[-1]


def test_the_number_of_workers_changes_no_key_and_the_search_settings_do(prepared):
    root = prepared()
    first = searched(root)
    assert searched(prepared({"workers": {"count": 2}})).hit
    assert searched(prepared(seed=1)).key != first.key


def test_search_text_that_variants_are_judged_on_is_refused(prepared):
    root = prepared()
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text())
    for spec in params["variants"].values():
        spec["allocation"]["text"] = params["evaluation"]["text"]
    path.write_text(yaml.safe_dump(params))
    with pytest.raises(InputError, match="search text is the evaluation text"):
        searched(root)
    # The same words in another file are still the same windows.
    text = Path(params["evaluation"]["text"]["path"]).read_text()
    (root / "copy.txt").write_text(text.replace(" ", " ", 1) + " w1")
    for spec in params["variants"].values():
        spec["allocation"] |= {
            "text": {"name": "file", "path": str(root / "copy.txt")},
            "windows": 25,
            "validation": 12,
        }
    path.write_text(yaml.safe_dump(params))
    with pytest.raises(InputError, match="also one of the evaluation"):
        searched(root)


def test_too_little_search_text_is_told(prepared):
    with pytest.raises(InputError, match="were asked"):
        searched(prepared(windows=4000, validation=400))


def test_one_block_that_moves_as_a_whole_stays_uniform_and_the_ledger_says_so(prepared, tiny_llama, tiny_directory):
    root = prepared(granularity="block", initial=[], probes=0)
    tiny_llama(num_hidden_layers=1).save_pretrained(tiny_directory)
    found = searched(root, "masked")
    events = [(entry["event"], entry["rule"]) for entry in found.facts["ledger"]]
    assert events == [("degenerate", "uniform")]
    assert found.facts["search"]["generations"] == 0
    assert abs(found.facts["sparsity"] - 0.6) < 1 / found.facts["prunable"]


def test_the_tracked_run_has_a_curve_over_the_generations(prepared):
    workspace = Workspace.open(prepared())
    pipeline = Pipeline(workspace.context(), workspace.settings)
    record = variant_record(workspace, pipeline, "masked", [])
    track_variant(workspace.root, record, [])
    run = next(run for run in find_runs(workspace.root) if run["tags"]["variant"] == "masked")
    history = record.search.history
    assert run["metrics"]["search/best"] == pytest.approx(history[-1].best)
    assert run["metrics"]["search/tokens"] == history[-1].tokens


def test_the_command_searches_a_variant_that_has_another_allocation(prepared, monkeypatch):
    root = prepared()
    monkeypatch.chdir(root)
    same = searched(root)
    found = search_variant("swept", None, True)
    assert found["path"] == str(same.path) and found["cached"] and found["tokens_per_second"] > 0
    assert found["page"] == str(root / ".espalier" / "reports" / "search-swept.html")
    assert Path(found["page"]).read_text() == draw_search(same.path)
    assert found["initial"] == sorted(found["initial"], key=lambda start: start["fitness"])
    plain = "variants.swept.allocation={name: uniform}"
    with pytest.raises(InputError, match="longer than the model's context"):
        # Begun with the search's defaults, whose windows are longer than this model takes.
        search_variant("swept", [plain], True)


def test_workers_are_checked_before_anything_runs():
    params = {"model": "m", "calibration": {"text": {"name": "stdlib", "split": "train"}}}
    params |= {
        "evaluation": {"text": {"name": "stdlib", "split": "test"}},
        "variants": {"weights": VARIANTS["weights"]},
    }
    for workers, message in (
        ({"name": "spark"}, "workers"),
        ({"count": 0}, "workers"),
        ({"address": "x:1"}, "cluster"),
    ):
        with pytest.raises(InputError, match=message):
            parse_settings(params | {"compute": {"workers": workers}})
