"""The command line as a person meets it: help, wrong input, and commands that look."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import yaml

from flows.commands.options import app

pytestmark = pytest.mark.slow

COMMANDS = typer.main.get_command(app).commands
HEAVY = ("torch", "transformers", "numpy", "prefect", "mlflow", "dvc")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_imports_nothing_heavy(start, tmp_path: Path, name: str):
    done = start(tmp_path, "espalier", name, "--help", PYTHONPROFILEIMPORTTIME="1").wait()
    assert done.code == 0 and f"Example: espalier {name}" in " ".join(done.out.split())
    imported = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert "typer" in imported and not imported.intersection(HEAVY)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_is_a_command_that_parses(name: str):
    example = re.search("`(.+?)`", COMMANDS[name].epilog).group(1)
    program, command, *arguments = shlex.split(example)
    assert (program, command) == ("espalier", name)
    assert COMMANDS[name].make_context(name, arguments).params


@pytest.fixture(scope="module")
def broken(make_workspace) -> Path:
    """A workspace with copies of its model, each of them damaged in one way."""
    root = make_workspace()

    def copy(name: str) -> Path:
        return shutil.copytree(root / "models" / "tiny", root / "models" / name)

    (copy("no-weights") / "model.safetensors").unlink()
    for file in copy("no-tokenizer").glob("token*"):
        file.unlink()
    weights = copy("truncated") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return root


WRONG = {
    "unknown variant": (["explain", "sparsgpt-50"], "did you mean .sparsegpt-50"),
    "unknown variant of a flow": (["compress", "magnitude-5"], "did you mean .magnitude-50"),
    "unknown key": (["compress", "magnitude-50", "--set", "calibration.lenght=8"], "calibration.lenght.*mean .length"),
    "unquoted N:M": (["explain", "magnitude-50", "--set", "variants.magnitude-50.pattern=2:4"], "n_of_m"),
    "sparsity above one": (["explain", "magnitude-50", "--set", "variants.magnitude-50.sparsity=1.5"], "sparsity.*1.5"),
    "no weights": (["step", "prune", "magnitude-50", "--set", "model=models/no-weights"], "safetensors"),
    "truncated weights": (["compress", "magnitude-50", "--set", "model=models/truncated"], "truncated|bytes"),
    "no tokenizer": (["evaluate", "models/no-tokenizer"], "tokenizer"),
    "no such directory": (["evaluate", "models/tinny"], "models/tinny"),
    "short text": (["step", "tokens", "--set", "calibration.sequences=5000"], "5000"),
    "long windows": (["step", "tokens", "--set", "calibration.length=64"], "context of 32"),
    "hub id offline": (["explain", "magnitude-50", "--set", "model=someone/something@main"], "someone/something"),
    "override without value": (["explain", "magnitude-50", "--set", "model"], "KEY=VALUE"),
    "no such file of sections": (["explain", "magnitude-50", "--set", "@nowhere.yaml"], "no file .*nowhere.yaml"),
    "not computed yet": (["lineage", "sparsegpt-50"], "espalier compress sparsegpt-50"),
    "unknown stage": (["step", "prun", "sparsegpt-50"], "tokens, prune, evaluate"),
    "stage without variant": (["step", "prune"], "needs a variant"),
    "stage with variant": (["step", "tokens", "magnitude-50"], "takes no variant"),
    "nothing to prune": (["step", "prune", "dense"], "nothing to prune"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence_and_exit_code_2(espalier, broken: Path, case: str):
    arguments, sentence = WRONG[case]
    done = espalier(broken, *arguments)
    assert_refused(done, sentence)
    assert not list((broken / ".espalier").glob("objects/*/model.safetensors"))


def assert_refused(done, sentence: str) -> None:
    lines = [line for line in done.err.splitlines() if line.strip()]
    assert done.code == 2 and len(lines) == 1, done
    assert lines[0].startswith("espalier: ") and re.search(sentence, lines[0]), lines
    assert "Traceback" not in done.out + done.err


def test_a_folder_without_params_is_refused_by_the_installed_command(start, tmp_path: Path):
    assert_refused(start(tmp_path, "espalier", "compare").wait(), "no params.yaml in")
    assert list(tmp_path.iterdir()) == []


STOPPED_BADLY = """
import sys
from flows import cli


def interrupted_cleanup(**anything):
    try:
        raise KeyboardInterrupt
    finally:
        raise ValueError("clean-up failed")


cli.app = interrupted_cleanup
cli.main()
"""


def test_a_clean_up_that_fails_after_ctrl_c_does_not_hide_that_the_user_stopped_it(start, tmp_path: Path):
    done = start(tmp_path, "python", "-c", STOPPED_BADLY).wait()
    assert done.code == 130 and done.err.startswith("espalier: stopped") and "Traceback" not in done.err


@pytest.fixture(scope="module")
def story(espalier: Callable, make_workspace) -> dict:
    """Explained, compressed by stages, explained again; the answers by name."""
    root = make_workspace()
    before = espalier(root, "explain", "sparsegpt-50", "--json")
    untouched = not (root / ".espalier" / "objects").exists()
    espalier(root, "step", "prune", "sparsegpt-50")
    evaluated = espalier(root, "step", "evaluate", "sparsegpt-50")
    after = espalier(root, "explain", "sparsegpt-50", "--json")
    return {"root": root, "before": before, "untouched": untouched, "evaluated": evaluated, "after": after}


def test_explain_tells_what_is_missing_and_computes_nothing(story: dict):
    steps = json.loads(story["before"].out)
    assert [step["label"] for step in steps if step["label"].startswith("sparsegpt-50")] == [
        "sparsegpt-50 block 0",
        "sparsegpt-50 block 1",
        "sparsegpt-50 model",
        "sparsegpt-50 evaluation",
    ]
    assert not any(step["cached"] for step in steps) and story["untouched"]


def test_explain_finds_everything_cached_after_the_run(story: dict):
    before, after = (json.loads(story[name].out) for name in ("before", "after"))
    assert {step["label"] for step in before} == {step["label"] for step in after}
    assert all(step["cached"] for step in after)


def test_explain_names_the_setting_that_changed(espalier, story: dict):
    change = ["--set", "variants.sparsegpt-50.sparsity=0.25"]
    steps = json.loads(espalier(story["root"], "explain", "sparsegpt-50", "--json", *change).out)
    reasons = {step["label"]: step["reason"] for step in steps if not step["cached"]}
    assert "sparsity: 0.5 -> 0.25" in reasons["sparsegpt-50 block 0"]
    assert not any(label.startswith(("dense", "calibration", "evaluation")) for label in reasons)


def test_a_recipe_of_the_papers_is_explained_from_its_file(espalier, story: dict):
    recipes = Path(__file__).resolve().parents[2] / "recipes" / "papers.yaml"
    done = espalier(story["root"], "explain", "gptq-int3", "--json", "--set", f"@{recipes}")
    blocks = [step for step in json.loads(done.out) if "gptq-int3 block" in step["label"]]
    assert len(blocks) == 2 and "method.quantizer.bits" in blocks[0]["reason"]


def test_a_stage_prints_what_it_computed_and_what_it_found(story: dict):
    lines = story["evaluated"].out.splitlines()
    assert {"cached sparsegpt-50 block 0", "cached sparsegpt-50 model", "completed sparsegpt-50 evaluation"} <= {*lines}


def test_evaluating_the_directory_of_a_variant_gives_the_perplexity_of_its_stage(espalier, story: dict):
    facts = json.loads(espalier(story["root"], "evaluate", "artifacts/models/sparsegpt-50", "--json").out)
    stage = json.loads((story["root"] / "artifacts" / "metrics" / "sparsegpt-50.json").read_text())
    assert facts["quality"]["perplexity"] == pytest.approx(stage["perplexity"], rel=1e-6)
    assert (
        facts["size"]["file_bytes"]
        == (story["root"] / "artifacts/models/sparsegpt-50/model.safetensors").stat().st_size
    )


def test_lineage_names_every_link_from_the_checkpoint_to_the_evaluation(espalier, story: dict):
    found = json.loads(espalier(story["root"], "lineage", "sparsegpt-50", "--json").out)
    links = [link["what"] for link in found["chain"]]
    assert links == [
        "source checkpoint",
        "calibration tokens",
        "block-0",
        "block-1",
        "variant",
        "evaluation tokens",
        "evaluation",
    ]
    for link in found["chain"][1:]:
        assert json.loads((Path(link["path"]) / "manifest.json").read_text())["digest"] == link["digest"]
    params = yaml.safe_load((story["root"] / "params.yaml").read_text())
    assert found["recipe"] == params["variants"]["sparsegpt-50"]


@pytest.mark.parametrize("arguments", [["explain", "sparsegpt-50"], ["lineage", "sparsegpt-50"]])
def test_tables_for_people_are_plain_text_off_a_terminal(espalier, story: dict, arguments: list[str]):
    done = espalier(story["root"], *arguments)
    assert done.code == 0 and re.search("block.0", done.out)
    assert "\x1b" not in done.out + done.err
