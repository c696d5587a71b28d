"""One loader for every export: the model computes with the weights that the format's own reader gives."""

import shutil
from pathlib import Path

import pytest
import torch
from gguf_models import saved
from onnx_graphs import needs_onnx
from quantized_variants import variant
from transformers import LlamaConfig

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.evaluation.size import model_size
from pruning_core.export import FORMATS
from pruning_core.export.stored.recognise import format_of, weight_bytes
from pruning_core.progress import ignore_progress
from pruning_core.source import load_model, resolve

SPECS = [
    {"name": "safetensors"},
    {"name": "sparse"},
    {"name": "compressed_tensors"},
    {"name": "gptq", "checkpoint_format": "gptq"},
    {"name": "gptq", "checkpoint_format": "gptq_v2"},
    {"name": "gguf", "type": "q4_0"},
    pytest.param({"name": "onnx"}, marks=[needs_onnx, pytest.mark.slow]),
]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory) -> StoredModel:
    """A Llama pruned to half, with 4 bits in symmetric groups of 32."""
    folder = tmp_path_factory.mktemp("loading")
    source = saved(LlamaConfig, folder / "dense")
    return variant(source, folder / "variant", bits=4, symmetric=True, group_size=32)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "-".join(spec.values()))
def test_load_model_takes_every_export(pruned: StoredModel, tmp_path: Path, spec: dict[str, str]):
    out = shutil.copytree(pruned.directory, tmp_path / "out", ignore=shutil.ignore_patterns("*.safetensors"))
    made = FORMATS.build(spec)
    made.check(pruned)
    made.write(pruned, out, ignore_progress)
    assert format_of(out).name == spec["name"]
    model, reader = load_model(out), made.read(out)
    state = model.state_dict()
    for name in pruned.names():
        assert torch.equal(state[name], reader.load(name).float()), name
    own = load_model(pruned.directory)(torch.arange(30)[None]).logits.detach()
    assert torch.allclose(model(torch.arange(30)[None]).logits, own, rtol=0, atol=2e-3 * float(own.abs().max()))
    removed = [(state[matrix.stored], pruned.keep(matrix)) for matrix in pruned.matrices]
    assert all(not weight[~keep].count_nonzero() for weight, keep in removed)
    size = model_size(out)
    assert size["file_bytes"] == weight_bytes(out)
    assert size["parameters"] == model_size(pruned.directory)["parameters"]
    assert resolve(str(out)).digest != resolve(str(pruned.directory)).digest or spec["name"] == "safetensors"
