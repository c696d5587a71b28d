"""Writing weights: the bytes that the safetensors library writes, in the layout that transformers loads."""

import errno
import json
import resource
import stat

import pytest
import torch
from safetensors.torch import load_file, save
from transformers import AutoModelForCausalLM

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.safetensors_format import DTYPES
from pruning_core.checkpoint.sharded_writer import ShardedWriter
from pruning_core.errors import ComputationError, InputError


def write(directory, tensors, **settings):
    with ShardedWriter(directory, **settings) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)


def test_a_single_shard_is_the_same_bytes_as_the_safetensors_library_writes_for_every_dtype(tmp_path):
    tensors = {f'{i}-é"\\': torch.arange(5).to(dtype) for i, dtype in enumerate(DTYPES.values())}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 3), "matrix": torch.ones(2, 3)}
    write(tmp_path, tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == save(tensors, {"format": "pt"})


def test_a_transposed_view_is_written_with_its_values(tmp_path):
    matrix = torch.arange(6.0).reshape(2, 3)
    write(tmp_path, {"a": matrix.T})
    assert load_file(tmp_path / "model.safetensors")["a"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_caller_may_reuse_the_memory_of_a_tensor_at_once(tmp_path):
    buffer = torch.zeros(3)
    with ShardedWriter(tmp_path) as writer:
        for i in range(3):
            writer.add(str(i), buffer.fill_(i))
    stored = load_file(tmp_path / "model.safetensors")
    assert [stored[str(i)].tolist() for i in range(3)] == [[0.0] * 3, [1.0] * 3, [2.0] * 3]


def test_shards_hold_at_most_their_size_and_the_index_names_every_tensor(tmp_path):
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(7)} | {"big": torch.zeros(100)}
    write(tmp_path, tensors, max_shard_bytes=100)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 7 * 40 + 400
    assert list(index["weight_map"]) == sorted(tensors)
    names = [f"model-{i:05d}-of-00005.safetensors" for i in range(1, 6)]
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == names
    for shard in names:
        stored = load_file(tmp_path / shard)
        assert {name for name, home in index["weight_map"].items() if home == shard} == set(stored)
        assert sum(tensor.nbytes for tensor in stored.values()) <= 100 or list(stored) == ["big"]
        assert all(tensor.equal(tensors[name]) for name, tensor in stored.items())


def test_a_shard_is_on_disk_as_soon_as_it_is_full(tmp_path):
    writer = ShardedWriter(tmp_path, max_shard_bytes=40)
    writer.add("a", torch.zeros(10))
    assert list(tmp_path.iterdir()) == []
    writer.add("b", torch.zeros(10))
    (provisional,) = tmp_path.iterdir()
    assert list(load_file(provisional)) == ["a"]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard_bytes", [3000, 10**9])
def test_transformers_loads_what_was_written_with_equal_logits(tiny_llama, tmp_path, tied, shard_bytes):
    model = tiny_llama(tie_word_embeddings=tied)
    weights = {name: value for name, value in model.state_dict().items() if not (tied and "lm_head" in name)}
    write(tmp_path, weights, max_shard_bytes=shard_bytes)
    model.config.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.arange(20)[None]
    assert again(tokens).logits.equal(model(tokens).logits)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == tied
    assert Checkpoint(tmp_path).names() == sorted(weights)


def test_an_interrupted_writer_leaves_nothing_that_could_be_taken_for_a_model(tmp_path):
    def interrupted():
        with ShardedWriter(tmp_path, max_shard_bytes=40) as writer:
            writer.add("a", torch.zeros(10))
            writer.add("b", torch.zeros(10))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_the_leftovers_of_a_killed_writer_are_not_mixed_into_the_next_one(tmp_path):
    killed = ShardedWriter(tmp_path, max_shard_bytes=40)
    for name in "abc":
        killed.add(name, torch.zeros(10))
    assert len(list(tmp_path.iterdir())) == 2
    write(tmp_path, {"d": torch.zeros(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_existing_weights_are_not_overwritten(tmp_path):
    write(tmp_path, {"a": torch.zeros(1)})
    with pytest.raises(InputError, match="already holds weights"):
        ShardedWriter(tmp_path)


def test_a_tensor_written_twice_or_none_at_all_is_an_error(tmp_path):
    with pytest.raises(ComputationError, match="'a' was written twice"), ShardedWriter(tmp_path) as writer:
        writer.add("a", torch.zeros(1))
        writer.add("a", torch.zeros(1))
    with pytest.raises(ComputationError, match="no tensor was written"):
        ShardedWriter(tmp_path).close()


def test_a_dtype_that_the_format_does_not_know_is_named(tmp_path):
    with pytest.raises(ComputationError, match=r"torch\.complex128"):
        write(tmp_path, {"a": torch.zeros(1, dtype=torch.complex128)})


def test_a_file_that_cannot_be_written_is_an_ordinary_os_error(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError) as failure:
            write(tmp_path, {"a": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failure.value.errno == errno.EFBIG


def test_the_files_have_the_permissions_of_any_new_file(tmp_path):
    write(tmp_path, {"a": torch.zeros(1)})
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "model.safetensors")}
    assert len(modes) == 1
