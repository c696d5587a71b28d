"""The script that trained the shipped model: what a person relies on when a long training is cut off."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

# The training scripts are no package: they import one another as they do when started from the command line.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models"))

import corpus
import train as command
import training

from pruning_core.errors import InputError
from pruning_core.text import Documents

TINY = ["vocabulary=300", "context=16", "hidden=16", "blocks=2", "heads=2", "kv_heads=1", "mlp=24", "rows=2"]
TINY += ["steps=12", "warmup=3", "validation_every=4", "validation_windows=2"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for number, split in enumerate(("train", "validation", "test")):
        lines = [f"def f{n}(x): return x * {n * n + number}" for n in range(60)]
        (folder / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def run(directory: Path, text: Path, *changes: str):
    settings = [part for change in (*TINY, *changes) for part in ("--set", change)]
    arguments = ["run", "--directory", str(directory), "--text", str(text), *settings]
    return CliRunner().invoke(command.app, arguments, catch_exceptions=False)


def cut_off_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the training die in the report of `step`, as a signal would, without leave to save anything."""

    def report(self, state, loss):
        if state.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.Reporter, "__call__", report)


def state_of(directory: Path, step: int) -> tuple[dict[str, torch.Tensor], dict]:
    folder = directory / f"step-{step:06d}"
    return load_file(folder / "state.safetensors"), json.loads((folder / "checkpoint.json").read_text())


def test_a_training_cut_off_between_checkpoints_and_resumed_ends_in_the_same_bits(tmp_path, text, monkeypatch):
    run(tmp_path / "whole", text)
    with monkeypatch.context() as patch:
        cut_off_at(6, patch)
        assert run(tmp_path / "cut", text).exit_code == 130
    assert [path.name for path in training.checkpoints(tmp_path / "cut")] == ["step-000004"]
    run(tmp_path / "cut", text)
    whole, facts = state_of(tmp_path / "whole", 12)
    resumed, resumed_facts = state_of(tmp_path / "cut", 12)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert facts == resumed_facts
    assert [point["step"] for point in facts["curve"]] == [4, 8, 12]


def test_a_longer_training_continues_a_shorter_one_that_had_not_begun_to_decay(tmp_path, text, monkeypatch):
    run(tmp_path / "long", text, "steps=16")
    with monkeypatch.context() as patch:
        cut_off_at(9, patch)
        run(tmp_path / "short", text, "steps=12")
    run(tmp_path / "short", text, "steps=16")
    expected, actual = state_of(tmp_path / "long", 16)[0], state_of(tmp_path / "short", 16)[0]
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path, text):
    run(tmp_path / "run", text)
    with pytest.raises(InputError, match="other settings"):
        run(tmp_path / "run", text, "peak_lr=0.5")


def test_the_exported_model_loads_and_is_the_checkpoint_rounded_to_half_precision(tmp_path, text):
    run(tmp_path / "run", text)
    target = tmp_path / "model"
    arguments = ["export", "--directory", str(tmp_path / "run"), "--to", str(target), "--text", str(text)]
    assert CliRunner().invoke(command.app, arguments, catch_exceptions=False).exit_code == 0
    model = AutoModelForCausalLM.from_pretrained(target)
    facts = json.loads((target / "training_curve.json").read_text())
    assert str(model.dtype) == f"torch.{facts['dtype']}"
    trained = state_of(tmp_path / "run", 12)[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, trained[name].to(parameter.dtype)), name
    tokenizer = AutoTokenizer.from_pretrained(target)
    line = "def f(x):\n\treturn 'é' + 漢字  # ends\n"
    assert tokenizer.decode(tokenizer(line)["input_ids"]) == line
    card = (target / "README.md").read_text()
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters" in card
    assert all(split["digest"] in card for split in facts["splits"].values())


def test_an_unknown_setting_is_refused_with_the_known_ones(tmp_path, text):
    with pytest.raises(InputError, match="hidden"):
        run(tmp_path / "run", text, "hiden=3")


def test_an_epoch_reads_every_window_once_and_targets_are_the_next_tokens():
    batches = corpus.Batches(torch.arange(1000), length=10, rows=3, seed=5)
    inputs, targets = (torch.cat(part) for part in zip(*map(batches.at, range(33)), strict=True))
    torch.testing.assert_close(targets, inputs + 1)
    starts = np.sort(inputs[:, 0].numpy())
    assert batches.windows == 99
    assert (np.diff(starts) == 10).all()
    assert starts[0] < 10


def test_two_epochs_differ_in_order_and_the_same_step_is_the_same_batch():
    batches = corpus.Batches(torch.arange(1000), length=10, rows=99, seed=5)
    assert torch.equal(batches.at(1)[0], batches.at(1)[0])
    assert not torch.equal(batches.at(0)[0], batches.at(1)[0])


def test_files_are_packed_with_the_end_token_after_each(text):
    tokenizer = corpus.train_tokenizer(["one two", "three"], 270)
    ids = corpus.pack_documents(Documents(("one two", "three"), "\n", {}), tokenizer)
    expected = [*tokenizer.encode("one two").ids, 0, *tokenizer.encode("three").ids, 0]
    assert ids.tolist() == expected


def test_the_learning_rate_rises_stays_and_falls_as_drawn():
    settings = training.Settings(steps=400, warmup=100, peak_lr=1.0, decay_fraction=0.25)
    rates = [settings.lr(step) for step in range(400)]
    assert rates[0] == 0.01
    assert rates[99:300] == [1.0] * 201
    # Half of the decay's square root is reached after a quarter of it.
    assert rates[324] == pytest.approx(1 - (25 / 101) ** 0.5)
    assert 0 < rates[399] < 0.01
