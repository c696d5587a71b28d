"""Size: counted on the stored files, with zeros that save nothing."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pruning_core.errors import InputError
from pruning_core.evaluation.size import model_size


def test_a_stored_model_has_as_many_parameters_as_the_model_in_memory(tiny_llama, tiny_directory):
    size = model_size(tiny_directory)
    parameters = sum(value.numel() for value in tiny_llama().parameters())
    assert size["parameters"] == parameters
    assert size["tensor_bytes"] == 4 * parameters
    assert size["file_bytes"] == (tiny_directory / "model.safetensors").stat().st_size
    assert size["bits_per_weight"] == 32
    assert size["packed_bytes"] == 0
    assert "prunable" not in size


def test_shards_are_added_up_and_tied_weights_count_once(tiny_llama, tmp_path):
    model = tiny_llama(tie_word_embeddings=True)
    model.half().save_pretrained(tmp_path, max_shard_size="4KB")
    size = model_size(tmp_path)
    assert size["parameters"] == sum(value.numel() for value in model.parameters())
    assert size["file_bytes"] == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert size["bits_per_weight"] == 16


def test_zeros_are_counted_and_make_nothing_smaller(tmp_path):
    values = np.array([[0.0, -0.0, 1.0, 1e-30], [0.0, 2.0, 3.0, 4.0]], dtype=np.float32)
    for name, tensor in {"dense": torch.ones(2, 4), "sparse": torch.from_numpy(values)}.items():
        (tmp_path / name).mkdir()
        save_file({"a": tensor, "b": torch.ones(8)}, tmp_path / name / "model.safetensors")
    dense, sparse = (model_size(tmp_path / name, prunable=["a"]) for name in ("dense", "sparse"))
    assert sparse["zeros"] == int((values == 0).sum()) == 3
    assert sparse["zero_fraction"] == 3 / 16
    assert sparse["prunable"] == {"parameters": 8, "zeros": 3, "zero_fraction": 3 / 8}
    for key in ("file_bytes", "tensor_bytes", "parameters", "bits_per_weight"):
        assert sparse[key] == dense[key]


def test_one_byte_floats_and_half_precision_have_their_zeros_counted(tmp_path):
    values = torch.tensor([0.0, -0.0, 1.0, 2.0])
    kinds = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "bf16": torch.bfloat16}
    save_file({name: values.to(dtype) for name, dtype in kinds.items()}, tmp_path / "model.safetensors")
    size = model_size(tmp_path)
    assert (size["zeros"], size["parameters"], size["tensor_bytes"]) == (6, 12, 4 + 4 + 8)


def test_packed_codes_are_no_parameters_and_hide_the_bits_per_weight_until_they_are_told(tmp_path):
    save_file(
        {"codes": torch.zeros(100, dtype=torch.int32), "scale": torch.ones(50)},
        tmp_path / "model.safetensors",
    )
    size = model_size(tmp_path)
    assert (size["parameters"], size["zeros"], size["packed_bytes"]) == (50, 0, 400)
    assert size["bits_per_weight"] is None
    assert model_size(tmp_path, parameters=800)["bits_per_weight"] == 6.0


def test_a_prunable_weight_that_is_not_stored_is_named(tiny_directory):
    with pytest.raises(InputError, match=r"'model\.layers\.9"):
        model_size(tiny_directory, prunable=["model.layers.9.mlp.up_proj.weight"])


def test_the_result_is_json_and_progress_counts_tensors(tiny_directory):
    seen = []
    size = model_size(tiny_directory, progress=lambda done, total: seen.append((done, total)))
    assert json.loads(json.dumps(size)) == size
    assert seen == [(i, 21) for i in range(1, 22)]
