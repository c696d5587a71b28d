"""The export step: what it writes is read again and compared, and what cannot be expressed is told first."""

import json

import pytest
import torch

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation import llama_cpp
from pruning_core.export import FORMATS, format_spec
from pruning_core.export.onnx import packages
from pruning_core.export.safetensors import PlainSafetensors
from pruning_core.export.stored.recognise import format_of, is_plain, weight_bytes
from pruning_core.source import load_model
from tasks.progress import progress
from tasks.steps.export import verify
from tasks.steps.serve_speed import engine_of


class Altered:
    """A reader that gives one tensor otherwise."""

    def __init__(self, directory, name, change):
        self._plain, self._name, self._change = Checkpoint(directory), name, change

    def names(self):
        return self._plain.names()

    def load(self, name):
        tensor = self._plain.load(name)
        return self._change(tensor) if name == self._name else tensor


@pytest.fixture
def pruned(half_empty_directory):
    """A model one matrix of which is half zeros, and the facts that tell it."""
    name = "model.layers.0.mlp.up_proj"
    rows, columns = Checkpoint(half_empty_directory).shape(f"{name}.weight")
    layer = LayerFacts(name, f"{name}.weight", rows, columns, removed=rows * columns // 2)
    return StoredModel(half_empty_directory, [layer])


def report(done, total):
    pass


def test_a_plain_export_is_the_model_bit_for_bit(pruned, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    plain = PlainSafetensors()
    plain.write(pruned, out, report)
    found = verify(plain, pruned, plain.read(out), progress("verifying"))
    zeros = pruned.matrices[0].removed
    assert found == {
        "tensors": len(pruned.names()),
        "equal": len(pruned.names()),
        "relative_change": 0.0,
        "largest_change": 0.0,
        "zeros": {"before": zeros, "after": zeros},
    }
    assert is_plain(out) and weight_bytes(out) == sum(file.stat().st_size for file in out.glob("model*"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensor: tensor + 1e-3, "does not come back bit for bit"),
        (lambda tensor: -tensor, "does not come back bit for bit"),  # of a zero only the sign differs
        (lambda tensor: tensor[1:], "has the shape"),
    ],
)
def test_an_exact_format_that_gives_other_weights_back_fails(pruned, change, told):
    with pytest.raises(ComputationError, match=told):
        verify(PlainSafetensors(), pruned, Altered(pruned.directory, pruned.matrices[0].stored, change), report)


def test_a_rounding_format_may_change_weights_but_no_zero(pruned, monkeypatch):
    monkeypatch.setattr(PlainSafetensors, "exact", False)
    name = pruned.matrices[0].stored
    rounding = Altered(pruned.directory, name, lambda tensor: tensor * 1.01)
    found = verify(PlainSafetensors(), pruned, rounding, report)
    weights = torch.cat([pruned.load(one).double().flatten() for one in pruned.names()])
    expected = 0.01 * float(pruned.load(name).double().norm() / weights.norm())
    assert found["relative_change"] == pytest.approx(expected, rel=1e-4)
    assert found["equal"] == found["tensors"] - 1
    with pytest.raises(ComputationError, match="zeros of the pruned matrices have other values"):
        verify(PlainSafetensors(), pruned, Altered(pruned.directory, name, lambda tensor: tensor + 1e-6), report)
    with pytest.raises(ComputationError, match="NaN or infinite"):
        verify(PlainSafetensors(), pruned, Altered(pruned.directory, name, lambda tensor: tensor / 0), report)


def test_a_missing_tensor_is_told(pruned):
    class Fewer(Altered):
        def names(self):
            return super().names()[1:]

    with pytest.raises(ComputationError, match="lacks"):
        verify(PlainSafetensors(), pruned, Fewer(pruned.directory, "", None), report)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("safetensor", [], "did you mean 'safetensors'"),
        ("safetensors", ["bits=4"], "bits is not a known key"),
        ("safetensors", ["bits"], "key=value"),
        ("safetensors", ["a=[1"], "not YAML"),
    ],
)
def test_wrong_formats_and_options_are_told_in_a_sentence(name, options, told):
    with pytest.raises(InputError, match=told):
        format_spec(name, options)


def test_every_format_says_what_serves_it(tmp_path):
    for name in FORMATS.names():
        made = FORMATS.get(name)()
        assert made.command() and made.library and isinstance(made.exact, bool) and isinstance(made.native, bool)
        assert not made.recognises(tmp_path)


def test_a_directory_of_safetensors_is_loaded_as_before(pruned):
    assert format_of(pruned.directory).name == "safetensors"
    config = json.loads((pruned.directory / "config.json").read_text())
    assert load_model(pruned.directory).config.hidden_size == config["hidden_size"]


@pytest.mark.parametrize(
    ("file", "engine", "module"),
    [("model.gguf", "llama.cpp", llama_cpp), ("model.onnx", "ONNX Runtime", packages)],
)
def test_an_export_is_served_by_the_engine_of_its_format_where_that_is_installed(
    tmp_path, monkeypatch, file, engine, module
):
    (tmp_path / file).touch()
    for installed, wanted in ((True, engine), (False, "transformers")):
        monkeypatch.setattr(module, "is_installed", lambda installed=installed: installed)
        assert engine_of(tmp_path) == wanted
    (tmp_path / file).rename(tmp_path / "model.safetensors")
    assert engine_of(tmp_path) == "transformers"
