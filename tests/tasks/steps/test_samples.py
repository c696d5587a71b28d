"""Samples from params.yaml to the store, the record, the report and MLflow, against generation by transformers."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from pipelines import computed, pipeline_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows.actions.gc import collect
from flows.actions.inspect import explain_variant, lineage_of
from pruning_core.errors import InputError
from pruning_core.settings.recipe import BASELINE
from tasks.lineage.collect_record import variant_record
from tasks.records.comparison import comparable
from tasks.records.variant import parse
from tasks.report.page import write_report
from tasks.steps.hidden_states import load_tokens
from tasks.steps.samples import read_samples
from tasks.tracking.connection import store_uri
from tasks.tracking.runs import find_runs, track_variant
from tasks.workspace.workspace import Workspace

VARIANT = "magnitude-50"


def choose(root: Path, samples: dict | None) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["evaluation"]["samples"] = samples
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.fixture
def root(workspace_root: Path) -> Path:
    choose(workspace_root, {"prompts": 3, "prompt_tokens": 6, "new_tokens": 9})
    return workspace_root


def records(root: Path) -> list[dict]:
    pipeline, _ = pipeline_of(root)
    return [variant_record(Workspace.open(root), pipeline, name, []).as_json() for name in (BASELINE, VARIANT)]


def test_every_model_goes_on_with_the_same_beginnings_of_evaluation_windows(root: Path):
    pipeline, _ = pipeline_of(root)
    dense, own = pipeline.samples(BASELINE), pipeline.samples(VARIANT)
    windows = load_tokens(pipeline.evaluation)
    assert len(windows) == 12 and own.facts["windows"] == dense.facts["windows"] == [0, 4, 8]
    told = read_samples(own)
    assert [prompt["tokens"] for prompt in told["prompts"]] == windows[[0, 4, 8], :6].tolist()
    assert [prompt["follows"].split() for prompt in told["prompts"]] == [
        [f"w{token}" for token in row] for row in windows[[0, 4, 8], 6:15].tolist()
    ]
    assert told["prompts"] == read_samples(dense)["prompts"]
    assert dense.manifest["inputs"].keys() == {"tokens", "model"} and dense.facts["agreement"] == 1.0
    assert own.facts["protocol"] == dense.facts["protocol"]


def test_the_text_is_that_of_greedy_generation_and_the_share_that_of_a_hand_count(root: Path):
    pipeline, _ = pipeline_of(root)
    tokens = {}
    for name in (BASELINE, VARIANT):
        model = AutoModelForCausalLM.from_pretrained(pipeline.model(name).path, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(pipeline.model(name).path)
        told = read_samples(pipeline.samples(name))
        tokens[name] = []
        for prompt, written in zip(told["prompts"], told["continuations"], strict=True):
            ids = torch.tensor([prompt["tokens"]])
            made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=9)[0, 6:]
            assert "".join(written["text"]).split() == tokenizer.decode(made).split()
            tokens[name].append(made.tolist())
    shared = 0
    for dense, own in zip(*tokens.values(), strict=True):
        for one, other in zip(dense, own, strict=False):
            if one != other:
                break
            shared += 1
    total = sum(map(len, tokens[BASELINE]))
    assert 0 < shared < total
    assert pipeline.samples(VARIANT).facts["agreement"] == shared / total


def test_other_samples_ask_the_models_again_and_make_nothing_else(root: Path):
    pipeline, _ = pipeline_of(root)
    pipeline.quality(VARIANT)
    first = pipeline.samples(VARIANT)
    choose(root, {"texts": ["w3 w1 w4", "w2"], "new_tokens": 5})
    pipeline, seen = pipeline_of(root)
    pipeline.quality(VARIANT)
    told = pipeline.samples(VARIANT)
    assert computed(seen) == [f"{BASELINE} samples", f"{VARIANT} samples"] and told.key != first.key
    assert told.facts["windows"] == [None, None]
    assert [prompt["tokens"] for prompt in read_samples(told)["prompts"]] == [[3, 1, 4], [2]]
    choose(root, None)
    pipeline, seen = pipeline_of(root)
    assert pipeline.samples(VARIANT) is None and seen.records == []


def test_more_tokens_than_the_context_are_refused_before_anything_is_compressed(root: Path):
    choose(root, {"prompts": 1, "prompt_tokens": 16, "new_tokens": 17})
    pipeline, seen = pipeline_of(root)
    with pytest.raises(InputError, match=r"16 tokens and 17 new ones are more than the model's context of 32"):
        pipeline.samples(VARIANT)
    assert {record["label"] for record in seen.records} == {"evaluation tokens"}


def test_they_reach_the_report_the_commands_and_no_garbage(root: Path, monkeypatch):
    dense, variant = records(root)
    page = write_report(map(parse, [dense, variant]), Path("report.html"), root).read_text()
    first = variant["samples"]["continuations"][0]
    assert "Prompt 2, from evaluation window 4" in page
    assert f"<mark>{first['text'][1]}</mark>{first['text'][2]}" in page
    assert f"<td>{variant['samples']['agreement']:.1%}</td>" in page
    other = json.loads(json.dumps(variant))
    other["samples"]["protocol"]["digest"] = "0" * 64
    with pytest.raises(InputError, match="went on with different prompts"):
        comparable(map(parse, [dense, other]))
    monkeypatch.chdir(root)
    assert lineage_of(VARIANT, None)["chain"][-1]["what"] == "samples"
    assert {step["label"]: step["cached"] for step in explain_variant(VARIANT, None)}[f"{VARIANT} samples"]
    assert "samples" not in {item["kind"] for item in collect(True, 0.0, True, False, True)["goes"]}


def test_mlflow_shows_them_as_a_table_and_other_samples_replace_it(root: Path, monkeypatch):
    from mlflow import MlflowClient

    # MLflow looks for tables at its global address, whatever that of the client is.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri(root))

    def tracked(record: dict) -> tuple[dict, object]:
        run_id = track_variant(root, parse(record), []).run_id
        [run] = [run for run in find_runs(root) if run["run_id"] == run_id]
        return run, MlflowClient(store_uri(root)).load_table(run["experiment_id"], "samples.json", [run_id])

    _, variant = records(root)
    run, table = tracked(variant)
    told = variant["samples"]
    assert list(table["prompt"]) == [prompt["text"] for prompt in told["prompts"]]
    assert list(table["continuation"]) == ["".join(written["text"]) for written in told["continuations"]]
    assert list(table["tokens_as_dense"]) == [written["shared"] for written in told["continuations"]]
    assert run["metrics"]["greedy_agreement"] == pytest.approx(told["agreement"], rel=1e-5)
    choose(root, {"texts": ["w3 w1 w4"], "new_tokens": 5})
    _, other = records(root)
    again, table = tracked(other)
    assert again["run_id"] == run["run_id"] and list(table["prompt"]) == ["w3 w1 w4"]
    assert again["metrics"]["greedy_agreement"] == pytest.approx(other["samples"]["agreement"], rel=1e-5)
