"""The GPU benchmark at toy sizes on the CPU, and what it says where there is no GPU."""

import json

import pytest
import torch
from transformers import LlamaConfig
from typer.testing import CliRunner

from benchmarks.memory.model import make_model
from benchmarks.speed.gpu import TOY, app, compress
from benchmarks.speed.settings import SETTINGS
from pruning_core.errors import InputError
from pruning_core.settings.method import build_method


def test_toy_sizes_give_a_page_with_every_method_and_the_sweep(tmp_path):
    done = CliRunner().invoke(app, ["--toy", "--repeats", "1", "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    raw = json.loads((tmp_path / "gpu.json").read_text())
    assert set(raw["runs"]) == {setting.title for setting in SETTINGS}
    for runs in raw["runs"].values():
        (run,) = runs
        assert run["all"] == pytest.approx(run["enter"] + run["load"] + run["compress"])
    page = (tmp_path / "gpu.md").read_text()
    assert all(setting.title in page for setting in SETTINGS) and "numba ms" in page


def test_every_block_is_compressed_once(tmp_path, monkeypatch):
    config = LlamaConfig(**TOY, tie_word_embeddings=False)
    make_model(tmp_path / "model", config)
    seen = []
    monkeypatch.setattr(
        "benchmarks.speed.gpu.compress_block", lambda decoder, index, *rest, advance: seen.append((index, advance))
    )
    tokens = torch.zeros(2, 64, dtype=torch.long)
    compress(tmp_path / "model", config, build_method(SETTINGS[0].espalier), tokens, torch.device("cpu"))
    assert seen == [(0, True), (1, False)]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_what_to_do():
    done = CliRunner().invoke(app, [])
    assert isinstance(done.exception, InputError) and "add --toy" in str(done.exception)
