"""Reading weights: what comes back is what transformers wrote, and every broken directory says what to do."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.errors import InputError


@pytest.fixture
def sharded(tiny_llama, tmp_path: Path) -> Path:
    path = tmp_path / "sharded"
    tiny_llama().save_pretrained(path, max_shard_size="4KB")
    assert len(list(path.glob("model-*.safetensors"))) > 2
    return path


def rewrite_header(path: Path, change) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = change(raw[8 : 8 + length])
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])


def test_every_tensor_of_a_single_file_is_read_as_the_safetensors_library_reads_it(tiny_directory):
    expected = load_file(tiny_directory / "model.safetensors")
    checkpoint = Checkpoint(tiny_directory)
    assert checkpoint.names() == sorted(expected)
    for name, tensor in expected.items():
        assert checkpoint.load(name).equal(tensor)


def test_shapes_dtypes_and_sizes_are_known_without_loading(tiny_directory, monkeypatch):
    expected = load_file(tiny_directory / "model.safetensors")
    monkeypatch.setattr("pruning_core.checkpoint.checkpoint.safe_open", None)
    checkpoint = Checkpoint(tiny_directory)
    for name, tensor in expected.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.dtype(name) == tensor.dtype
        assert checkpoint.bytes(name) == tensor.nbytes


def test_shards_hold_the_same_tensors_as_the_single_file(sharded, tiny_directory):
    whole, parts = Checkpoint(tiny_directory), Checkpoint(sharded)
    assert parts.names() == whole.names()
    assert all(parts.load(name).equal(whole.load(name)) for name in whole.names())


def test_one_file_of_any_name_can_be_read_and_is_not_replaced_by_another(tiny_directory):
    save_file({"a": torch.ones(2)}, tiny_directory / "weights.safetensors")
    checkpoint = Checkpoint(tiny_directory, "weights.safetensors")
    assert checkpoint.names() == ["a"]
    assert list(checkpoint.digest_files()) == ["weights.safetensors"]
    with pytest.raises(InputError, match=r"has no other\.safetensors"):
        Checkpoint(tiny_directory, "other.safetensors")


def test_a_prefix_selects_one_module_and_not_its_namesakes(tmp_path):
    names = ["model.layers.1.a", "model.layers.1.b.c", "model.layers.10.a", "model.norm"]
    save_file({name: torch.tensor([i]) for i, name in enumerate(names)}, tmp_path / "model.safetensors")
    for prefix in ("model.layers.1", "model.layers.1."):
        loaded = Checkpoint(tmp_path).load_prefix(prefix)
        assert {name: int(value) for name, value in loaded.items()} == {names[0]: 0, names[1]: 1}


def test_a_prefix_may_span_shards(sharded, tiny_llama):
    state = tiny_llama().model.layers[1].state_dict()
    loaded = Checkpoint(sharded).load_prefix("model.layers.1")
    assert {name.removeprefix("model.layers.1."): value.tolist() for name, value in loaded.items()} == {
        name: value.tolist() for name, value in state.items()
    }


def test_a_loaded_tensor_does_not_change_with_its_file(tiny_directory):
    path = tiny_directory / "model.safetensors"
    tensor = Checkpoint(tiny_directory).load("model.norm.weight")
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert tensor.tolist() == [1.0] * 16


def test_an_absent_tensor_is_named_with_its_nearest_neighbour(tiny_directory):
    checkpoint = Checkpoint(tiny_directory)
    with pytest.raises(InputError, match=r"no tensor 'model\.norms\.weight'.*'model\.norm\.weight'"):
        checkpoint.load("model.norms.weight")
    for ask in (checkpoint.shape, checkpoint.dtype, checkpoint.bytes, checkpoint.load_prefix):
        with pytest.raises(InputError, match="holds no tensor"):
            ask("nothing.like.it")


def test_the_digests_are_those_of_the_files_and_change_with_one_byte_of_content(sharded):
    def by_hand():
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in [*sharded.glob("*.safetensors"), sharded / "model.safetensors.index.json"]
        }

    before = Checkpoint(sharded).digest_files()
    assert before == by_hand()
    shard = next(sharded.glob("*.safetensors"))
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    after = Checkpoint(sharded).digest_files()
    assert after == by_hand()
    assert {name for name in after if after[name] != before[name]} == {shard.name}


def test_a_caching_hasher_is_used_when_given(tiny_directory):
    assert Checkpoint(tiny_directory).digest_files(lambda path: f"known {path.name}") == {
        "model.safetensors": "known model.safetensors"
    }


def test_a_directory_that_is_not_there_or_empty_says_what_is_expected(tmp_path):
    with pytest.raises(InputError, match="is not a directory"):
        Checkpoint(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"holds no weights; expected model\.safetensors"):
        Checkpoint(tmp_path)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match=r"pytorch_model\.bin.*safe_serialization=True"):
        Checkpoint(tmp_path)


def test_a_missing_shard_is_named(sharded):
    gone = sorted(sharded.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(InputError, match=f"lacks {re.escape(gone.name)}"):
        Checkpoint(sharded)


def test_shards_without_their_index_are_not_guessed_at(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"without model\.safetensors\.index\.json"):
        Checkpoint(sharded)


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"{}", b'{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_named(sharded, content):
    (sharded / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(InputError, match=r"index\.json"):
        Checkpoint(sharded)


def test_an_index_cannot_point_out_of_the_directory(sharded):
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../tiny/model.safetensors"}}))
    with pytest.raises(InputError, match="must lie beside the index"):
        Checkpoint(sharded)


def test_an_index_of_another_model_is_noticed_whichever_side_has_more(sharded):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    moved = dict(index["weight_map"])
    moved["model.norms.weight"] = moved["model.norm.weight"]
    path.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(InputError, match=r"lacks, unlike the index, the tensor 'model\.norms\.weight'"):
        Checkpoint(sharded)
    fewer = {name: shard for name, shard in index["weight_map"].items() if name != "model.norm.weight"}
    path.write_text(json.dumps({"weight_map": fewer}))
    with pytest.raises(InputError, match=r"holds, unlike the index, the tensor 'model\.norm\.weight'"):
        Checkpoint(sharded)


def test_a_file_cut_anywhere_is_refused(tiny_directory):
    path = tiny_directory / "model.safetensors"
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    for size in (0, 7, 8, 100, header - 1, header, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(InputError, match="truncated"):
            Checkpoint(tiny_directory)


def test_a_truncated_file_tells_the_expected_and_the_found_bytes(tiny_directory):
    path = tiny_directory / "model.safetensors"
    raw = path.read_bytes()
    data = len(raw) - 8 - int.from_bytes(raw[:8], "little")
    path.write_bytes(raw[:-10])
    with pytest.raises(InputError, match=f"describes {data} bytes of tensors, found {data - 10}"):
        Checkpoint(tiny_directory)


def test_bytes_after_the_last_tensor_are_refused(tiny_directory):
    with (tiny_directory / "model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="is damaged"):
        Checkpoint(tiny_directory)


def test_no_single_flipped_bit_of_the_header_goes_unnoticed_or_escapes_as_another_error(tmp_path):
    save_file({"ab": torch.arange(3.0), "c": torch.arange(4)}, tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors"
    raw = path.read_bytes()
    header = 8 + int.from_bytes(raw[:8], "little")
    for position in range(header):
        for bit in range(8):
            damaged = bytearray(raw)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                survived = Checkpoint(tmp_path)
            except InputError:
                continue
            # What a checker of the header cannot know: another name, or another type of the same width.
            names = survived.names()
            same_width = {survived.dtype(name).itemsize for name in names} <= {4, 8}
            assert len(names) == 2 and same_width, (position, bit)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (b"{", b"x", "not JSON"),
        (b'"F32"', b'"F99"', "dtype 'F99'"),
        (b'"shape":[3]', b'"shape":[4]', "takes 16 bytes, its header entry spans 12"),
        (b'"shape":[3]', b'"shape":"3"', "lacks a shape"),
        (b"[0,12]", b"[1,13]", "begins at byte 1"),
        (b"[0,12]", b"[12,0]", "spans -12"),
    ],
)
def test_a_damaged_header_says_what_is_wrong_with_it(tmp_path, old, new, complaint):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    rewrite_header(tmp_path / "model.safetensors", lambda header: header.replace(old, new, 1))
    with pytest.raises(InputError, match=complaint):
        Checkpoint(tmp_path)


def test_a_header_that_is_json_but_no_object_is_refused(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    rewrite_header(tmp_path / "model.safetensors", lambda header: b"[1]     ")
    with pytest.raises(InputError, match="not a JSON object"):
        Checkpoint(tmp_path)
