"""The model that ships with the project is what its card says, and the project's own params.yaml is sound."""

import json
from pathlib import Path

import pytest

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.evaluation.perplexity import perplexity
from pruning_core.source import load_model, resolve
from pruning_core.text import TEXTS
from pruning_core.text.tokenized.windows import evaluation_windows
from tasks.workspace.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "stdlib-2.8m"


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((MODEL / "training_curve.json").read_text())


def test_the_model_is_small_and_its_files_are_complete():
    source = resolve(str(MODEL))
    assert sum(file.stat().st_size for file in MODEL.iterdir()) < 12e6
    assert source.context_length() == 512 and len(source.tokenizer()) == 2048
    assert all(Checkpoint(MODEL).dtype(name).itemsize == 2 for name in Checkpoint(MODEL).names())


def test_it_was_trained_to_the_end(facts):
    assert facts["step"] == facts["settings"]["steps"] >= 7000


@pytest.mark.slow
def test_its_held_out_perplexity_is_the_one_on_its_card(facts):
    documents = TEXTS.build({"name": "stdlib", "split": "validation"}).read()
    if documents.digest != facts["splits"]["validation"]["digest"]:
        pytest.skip("this Python's standard library is another text than the model's card was written for")
    row = next(row for row in facts["heldout"] if row["split"] == "validation" and row["length"] == 512)
    windows = evaluation_windows(documents, resolve(str(MODEL)).tokenizer(), length=512, windows=None)
    assert perplexity(load_model(MODEL), windows.tokens).value == pytest.approx(row["perplexity"], rel=1e-3)


def test_the_projects_own_settings_are_sound():
    settings = Workspace.open(ROOT).settings
    assert list(settings.variants) == ["magnitude-50", "wanda-50", "sparsegpt-50", "sparsegpt-2of4"]
    assert settings.calibration.text["split"] == "train" and settings.evaluation.text["split"] == "test"
