"""Exports as models: what this package loads, counts and identifies of a directory that stock loaders cannot read."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.evaluation.size import model_size
from pruning_core.export import FORMATS
from pruning_core.export.stored.recognise import check_weights, format_of, is_plain, weight_bytes, weight_files
from pruning_core.progress import ignore_progress
from pruning_core.source import load_model, resolve


@pytest.fixture
def sparse(half_empty_directory: Path, tmp_path: Path) -> Path:
    """Its sparse export, in several shards."""
    out = shutil.copytree(half_empty_directory, tmp_path / "sparse", ignore=shutil.ignore_patterns("model*"))
    FORMATS.build({"name": "sparse", "max_shard_bytes": 6000}).write(
        StoredModel(half_empty_directory), out, ignore_progress
    )
    return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sparse_export_loads_as_the_model_that_it_was_made_of(half_empty_directory, sparse, dtype):
    wanted, found = load_model(half_empty_directory, dtype), load_model(sparse, dtype)
    assert found.state_dict().keys() == wanted.state_dict().keys()
    assert all(value.equal(wanted.state_dict()[name]) for name, value in found.state_dict().items())
    tokens = torch.arange(20)[None]
    assert found(tokens).logits.equal(wanted(tokens).logits)


def test_tied_weights_of_a_sparse_export_are_tied_again(tiny_llama, tmp_path):
    tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    out = shutil.copytree(tmp_path / "tied", tmp_path / "sparse", ignore=shutil.ignore_patterns("model*"))
    FORMATS.build({"name": "sparse"}).write(StoredModel(tmp_path / "tied"), out, ignore_progress)
    model = load_model(out)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tokens = torch.arange(20)[None]
    assert model(tokens).logits.equal(load_model(tmp_path / "tied")(tokens).logits)


def test_its_size_is_that_of_its_files_and_its_numbers_are_those_of_the_model(half_empty_directory, sparse):
    dense, found = model_size(half_empty_directory), model_size(sparse)
    assert {key: found[key] for key in ("parameters", "zeros", "zero_fraction")} == {
        key: dense[key] for key in ("parameters", "zeros", "zero_fraction")
    }
    files = [*sparse.glob("sparse-*.safetensors"), sparse / "sparse_container.json"]
    assert len(files) > 3
    assert found["file_bytes"] == weight_bytes(sparse) == sum(file.stat().st_size for file in files)
    assert found["bits_per_weight"] == 8 * found["file_bytes"] / dense["parameters"]


def test_a_sparse_export_is_told_from_plain_safetensors(half_empty_directory, sparse):
    assert format_of(sparse).name == "sparse" and not is_plain(sparse)
    assert format_of(half_empty_directory).name == "safetensors" and is_plain(half_empty_directory)
    assert weight_files(half_empty_directory) == [half_empty_directory / "model.safetensors"]


def test_the_digest_of_the_model_changes_with_a_byte_of_any_shard_and_not_with_the_card(sparse):
    before = resolve(str(sparse)).digest
    for name in ("README.md", "export.json"):
        (sparse / name).write_text("{}")
    assert resolve(str(sparse)).digest == before
    shards = sorted(sparse.glob("sparse-*.safetensors"))
    digests = {before}
    for shard in shards:
        content = shard.read_bytes()
        shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        digests.add(resolve(str(sparse)).digest)
        shard.write_bytes(content)
    assert len(digests) == 1 + len(shards) and resolve(str(sparse)).digest == before


@pytest.mark.parametrize("damage", ["absent", "short"])
def test_a_sparse_export_that_is_not_whole_is_no_model(sparse, damage):
    shard = max(sparse.glob("sparse-*.safetensors"))
    content = shard.read_bytes()
    shard.unlink()
    if damage == "short":
        shard.write_bytes(content[:-1])
    with pytest.raises(InputError, match=shard.name):
        check_weights(sparse)
    with pytest.raises(InputError, match=shard.name):
        resolve(str(sparse))


def test_weights_that_are_not_those_of_the_config_are_refused(sparse):
    config = json.loads((sparse / "config.json").read_text())
    (sparse / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match=r"layers\.2"):
        load_model(sparse)
