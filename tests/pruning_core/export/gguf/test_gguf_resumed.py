"""GGUF exports that are killed: the next one goes on at the tensor they were in."""

from pathlib import Path

import pytest
import torch
from gguf_models import saved
from killed_writes import behind, interrupted, killed
from quantized_variants import exported, variant
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.export import FORMATS
from pruning_core.export.gguf.architecture import gguf_name
from pruning_core.export.gguf.encoder import Encoder
from pruning_core.export.gguf.header import read_gguf_header
from pruning_core.progress import ignore_progress

LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 16


def form(kind: str):
    return FORMATS.build({"name": "gguf", "type": kind})


@pytest.fixture
def encodings(monkeypatch) -> list[str]:
    """The tensors that were encoded, as they come."""
    seen, encoded = [], Encoder.encoded
    monkeypatch.setattr(Encoder, "encoded", lambda self, name: seen.append(name) or encoded(self, name))
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tensors", "torn"), [("f16", 7, False), ("q8_0", 12, True)])
def test_after_kill_9_finished_tensors_are_not_encoded_again(tmp_path, encodings, kind, tensors, torn):
    model = StoredModel(saved(LlamaConfig, tmp_path / "in", rope_parameters=LLAMA3))
    facts = exported(form(kind), model, tmp_path / "whole")
    assert encodings == model.names()
    encodings.clear()
    killed(model.directory, tmp_path / "out", {"name": "gguf", "type": kind}, tensors, torn)
    assert not (tmp_path / "out" / "model.gguf").exists()
    assert form(kind).write(model, tmp_path / "out", ignore_progress) == facts
    assert encodings == model.names()[tensors:]
    assert (tmp_path / "out" / "model.gguf").read_bytes() == (tmp_path / "whole" / "model.gguf").read_bytes()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.gguf"]


def test_killed_behind_the_last_of_the_model_only_the_rotary_factors_are_written(tmp_path, encodings):
    model = StoredModel(saved(LlamaConfig, tmp_path / "in", rope_parameters=LLAMA3))
    facts = exported(form("f16"), model, tmp_path / "whole")
    interrupted(form("f16"), model, tmp_path / "out", behind(len(model.names())))
    encodings.clear()
    assert form("f16").write(model, tmp_path / "out", ignore_progress) == facts and encodings == []
    assert (tmp_path / "out" / "model.gguf").read_bytes() == (tmp_path / "whole" / "model.gguf").read_bytes()


def test_an_altered_tensor_is_encoded_again_and_the_whole_ones_before_it_are_not(tmp_path, encodings):
    model = StoredModel(saved(LlamaConfig, tmp_path / "in"))
    exported(form("q8_0"), model, tmp_path / "whole")
    interrupted(form("q8_0"), model, tmp_path / "out", behind(6))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".model.gguf.partial", ".model.gguf.journal"}
    encodings.clear()
    partial = tmp_path / "out" / ".model.gguf.partial"
    # Behind six tensors lies half of the next one.
    start = read_gguf_header(tmp_path / "whole" / "model.gguf").tensors[gguf_name(model.names()[5])].start
    content = bytearray(partial.read_bytes())
    content[start] ^= 1
    partial.write_bytes(content)
    form("q8_0").write(model, tmp_path / "out", ignore_progress)
    assert encodings == model.names()[5:]
    assert (tmp_path / "out" / "model.gguf").read_bytes() == (tmp_path / "whole" / "model.gguf").read_bytes()


def other_weights(source: Path, tmp_path: Path) -> StoredModel:
    """A model of the same shapes."""
    tensors = load_file(source / "model.safetensors")
    save_file({name: torch.flip(tensor, [0]) for name, tensor in tensors.items()}, source / "model.safetensors")
    return StoredModel(source)


def with_codes(source: Path, tmp_path: Path) -> StoredModel:
    """The same, quantized."""
    return variant(source, tmp_path / "v", bits=4, group_size=32)


def with_longer_context(source: Path, tmp_path: Path) -> StoredModel:
    """The same weights, and another head of the file."""
    config = source / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 64', '"max_position_embeddings": 65'))
    return StoredModel(source)


@pytest.mark.parametrize("other", [other_weights, with_codes, with_longer_context])
def test_an_export_of_another_model_begins_anew(tmp_path, encodings, other):
    source = saved(LlamaConfig, tmp_path / "in")
    interrupted(form("q8_0"), StoredModel(source), tmp_path / "out", behind(6))
    model = other(source, tmp_path)
    facts = exported(form("q8_0"), model, tmp_path / "whole")
    encodings.clear()
    assert form("q8_0").write(model, tmp_path / "out", ignore_progress) == facts
    assert encodings == model.names()
    assert (tmp_path / "out" / "model.gguf").read_bytes() == (tmp_path / "whole" / "model.gguf").read_bytes()


def test_an_export_of_another_type_begins_anew(tmp_path, encodings):
    model = StoredModel(saved(LlamaConfig, tmp_path / "in"))
    exported(form("q8_0"), model, tmp_path / "whole")
    interrupted(form("f16"), model, tmp_path / "out", behind(6))
    encodings.clear()
    form("q8_0").write(model, tmp_path / "out", ignore_progress)
    assert encodings == model.names()
    assert (tmp_path / "out" / "model.gguf").read_bytes() == (tmp_path / "whole" / "model.gguf").read_bytes()
