"""Sparse containers against a slow reader written from the documentation, and against damage."""

import json
from pathlib import Path
from random import Random

import container_oracle
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.robustness.container_faults import files_of, mutated, read_all, valid_container
from pruning_core.checkpoint.safetensors_format import write_file
from pruning_core.checkpoint.stored_model import StoredGrid
from pruning_core.errors import ComputationError, InputError
from pruning_core.sparse_container.bit_stream import packed_stream, unpacked_stream
from pruning_core.sparse_container.choice import candidates, smallest
from pruning_core.sparse_container.entry import HEADER_BYTES, Matrix
from pruning_core.sparse_container.reader import SparseContainer
from pruning_core.sparse_container.writer import SparseContainerWriter

SHARD = "sparse-00001-of-00001.safetensors"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.float8_e5m2)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def write(directory: Path, tensors: dict[str, Matrix | torch.Tensor], encoding="auto", pattern=None, **options) -> Path:
    with SparseContainerWriter(directory, **options) as writer:
        for name, tensor in tensors.items():
            matrix = tensor if isinstance(tensor, Matrix) else Matrix(tensor)
            writer.add(name, matrix, smallest(candidates(matrix, encoding, pattern)))
    return directory


def sparse(rows: int, columns: int, zeros: float, dtype=torch.bfloat16, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=noise)
    return weight.masked_fill(torch.rand(rows, columns, generator=noise) < zeros, 0.0).to(dtype)


def coded(rows=4, columns=24, bits=3, size=8, seed=0, dtype=torch.bfloat16, zeros=0.5) -> Matrix:
    noise = torch.Generator().manual_seed(seed)
    group = (torch.arange(columns) // size).to(torch.int32)
    groups = -(-columns // size)
    zero = torch.randint(0, 2**bits, (rows, groups), generator=noise).float()
    codes = torch.randint(0, 2**bits, (rows, columns), generator=noise).to(torch.uint8)
    keep = torch.rand(rows, columns, generator=noise) >= zeros
    codes = codes.where(keep, zero[:, group.long()].to(torch.uint8))
    grid = StoredGrid(codes, torch.rand(rows, groups, generator=noise) + 0.1, zero, group, bits)
    return Matrix(grid.weight.to(dtype), grid, keep)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.randoms(use_true_random=False))
def test_every_encoding_gives_every_tensor_back_bit_for_bit_by_our_reader_and_by_the_documented_one(
    draw, tmp_path_factory
):
    directory = tmp_path_factory.mktemp("container")
    written = valid_container(draw, directory)
    container, documented = SparseContainer(directory), container_oracle.read(directory)
    assert container.names() == sorted(written) == sorted(documented)
    for name, tensor in written.items():
        again = container.load(name)
        assert (again.shape, again.dtype) == (tensor.shape, tensor.dtype)
        assert raw(again) == raw(tensor)
        # Rounding to one byte has no second implementation here.
        if not (container.entry(name).encoding == "codes" and tensor.itemsize == 1):
            assert documented[name] == raw(tensor)


@pytest.mark.parametrize("encoding", ["bitmask", "n_of_m", "csr"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_negative_zeros_and_the_payloads_of_nans_survive(tmp_path, encoding, dtype):
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[dtype.itemsize]
    weight = torch.zeros(3, 16, dtype=dtype)
    bits = weight.view(width)
    bits[0, 3] = -0x80 if width != torch.uint8 else 0x80
    bits[2, 5] = torch.tensor(-0.0).to(dtype).view(width)
    bits[2, 6], bits[2, 15] = torch.tensor(float("nan")).to(dtype).view(width), 1
    write(tmp_path, {"w": weight}, encoding)
    assert SparseContainer(tmp_path).load("w").view(width).tolist() == bits.tolist()
    assert container_oracle.read(tmp_path)["w"] == raw(weight)


@pytest.mark.parametrize("encoding", ["bitmask", "n_of_m", "csr", "auto"])
def test_a_matrix_of_zeros_alone_comes_back(tmp_path, encoding):
    write(tmp_path, {"w": torch.zeros(5, 32)}, encoding)
    again = SparseContainer(tmp_path).load("w")
    assert again.shape == (5, 32) and not again.count_nonzero()


def test_the_stream_puts_the_lowest_bit_of_each_integer_first():
    # 5 = 101, 3 = 011, 6 = 110, 1 = 001: read from the right 001 110 011 101.
    stream = packed_stream(torch.tensor([5, 3, 6, 1], dtype=torch.uint8), 3)
    assert stream.tolist() == [0b10011101, 0b0011]
    assert unpacked_stream(stream, 4, 3).tolist() == [5, 3, 6, 1]


@pytest.mark.parametrize("bits", range(1, 9))
def test_long_streams_cross_their_pieces(bits):
    values = torch.randint(0, 2**bits, (2**20 + 13,), dtype=torch.uint8)
    stream = packed_stream(values, bits)
    assert len(stream) == -(-len(values) * bits // 8)
    assert unpacked_stream(stream, len(values), bits).equal(values)
    for place in (0, 2**20 - 1, 2**20, 2**20 + 12):
        at = place * bits
        two = int.from_bytes(bytes(stream[at // 8 : at // 8 + 2].tolist()), "little")
        assert (two >> at % 8) % 2**bits == values[place]


def test_groups_that_hold_too_few_weights_are_filled_up_with_zeros_at_their_first_free_places(tmp_path):
    weight = torch.tensor([[0.0, 0, 3, 0, 5, 0, 0, 7], [0, 0, 0, 0, 0, 2, 0, 0]])
    write(tmp_path, {"w": weight}, "n_of_m", (2, 4))
    parts = container_oracle.shard(tmp_path / SHARD)
    assert torch.frombuffer(bytearray(parts["w/values"][1]), dtype=torch.float32).tolist() == [0, 3, 5, 7, 0, 0, 0, 2]
    # Places 02 03 01 01, two bits each.
    assert list(parts["w/indices"][1]) == [0b11_00_10_00, 0b01_00_01_00]


@pytest.mark.parametrize(("columns", "dtype", "largest"), [(256, "U8", 255), (257, "U16", 256), (65537, "I32", 65536)])
def test_columns_take_the_narrowest_type_that_holds_the_last_one(tmp_path, columns, dtype, largest):
    weight = torch.zeros(2, columns)
    weight[:, ::64] = 1.0
    weight[1, largest] = 2.0
    write(tmp_path, {"w": weight}, "csr")
    parts = container_oracle.shard(tmp_path / SHARD)
    assert (parts["w/columns"][0], parts["w/crow"][0]) == (dtype, "I32")
    assert SparseContainer(tmp_path).load("w").equal(weight)


@pytest.mark.parametrize(
    ("weight", "best"),
    [
        (torch.randn(32, 64), "dense"),
        (sparse(32, 64, 0.5), "bitmask"),
        (sparse(64, 128, 0.95), "csr"),
        (torch.randn(32, 64).view(-1, 4).index_fill(1, torch.tensor([0, 3]), 0.0).view(32, 64).half(), "n_of_m"),
        (coded(32, 64, size=64, zeros=0.3).weight, "bitmask"),
        (coded(32, 64, size=64, zeros=0.3), "codes"),
        (torch.zeros(64), "dense"),
        (torch.zeros(0, 64), "dense"),
        (torch.tensor(0.0), "dense"),
        (torch.zeros(64, 64, dtype=torch.int64), "dense"),
    ],
)
def test_auto_takes_what_makes_the_smallest_files(tmp_path, weight, best):
    matrix = weight if isinstance(weight, Matrix) else Matrix(weight)
    sizes = {}
    for number, entry in enumerate(candidates(matrix)):
        with SparseContainerWriter(tmp_path / str(number)) as writer:
            writer.add("w", matrix, entry)
        (shard,) = (tmp_path / str(number)).glob("*.safetensors")
        sizes[number] = shard.stat().st_size
    chosen = smallest(candidates(matrix))
    assert chosen.encoding == best
    assert sizes[candidates(matrix).index(chosen)] <= min(sizes.values()) + HEADER_BYTES


def test_codes_take_their_bits_and_no_mask_where_that_would_cost_more(tmp_path):
    masked, whole = coded(32, 64, bits=4, zeros=0.5), coded(32, 64, bits=4, zeros=0.1)
    write(tmp_path, {"masked": masked, "whole": whole}, "codes")
    container = SparseContainer(tmp_path)
    kept, all_weights = int(masked.keep.sum()), 32 * 64
    scales = 32 * 8 * 4 + 32 * 8 // 2
    assert container.entry("masked").bytes == -(-kept // 2) + all_weights // 8 + scales
    assert container.entry("whole").bytes == all_weights // 2 + scales
    for name, matrix in (("masked", masked), ("whole", whole)):
        assert raw(container.load(name)) == raw(matrix.weight) == container_oracle.read(tmp_path)[name]


def test_survivors_that_were_rounded_to_zero_keep_their_codes():
    matrix = coded(zeros=0.5)
    matrix.grid.codes[0] = matrix.grid.zero[0, matrix.grid.group.long()].to(torch.uint8)
    matrix = Matrix(matrix.grid.weight.bfloat16(), matrix.grid, matrix.keep)
    (entry,) = candidates(matrix, "codes")
    assert entry.count == int(matrix.keep.sum()) > matrix.count


def test_codes_that_do_not_give_the_stored_weights_are_not_offered():
    matrix = coded()
    changed = matrix.weight.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2].float() + 1, torch.tensor(9.0))
    assert [entry.encoding for entry in candidates(matrix, "codes")] == ["codes"]
    assert candidates(Matrix(changed, matrix.grid, matrix.keep), "codes") == []
    removed = changed.masked_fill(~matrix.keep, -0.0)
    assert candidates(Matrix(removed, matrix.grid, matrix.keep), "codes") == []
    wider = StoredGrid(matrix.grid.codes, matrix.grid.scale, matrix.grid.zero, matrix.grid.group, bits=1)
    assert candidates(Matrix(matrix.weight, wider, matrix.keep), "codes") == []


def test_the_parts_of_a_tensor_lie_in_one_shard_of_the_asked_size_and_names_may_hold_slashes(tmp_path):
    tensors = {f"{i}/values": sparse(8, 64, 0.5, seed=i) for i in range(6)} | {"": torch.ones(2)}
    write(tmp_path, tensors, max_shard_bytes=1500)
    container = SparseContainer(tmp_path)
    shards = [file for file in container.files if file.suffix == ".safetensors"]
    assert [file.name for file in shards] == [f"sparse-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for file in shards:
        parts = container_oracle.shard(file)
        assert sum(len(content) for _, content in parts.values()) <= 1500
    assert all(raw(container.load(name)) == raw(tensor) for name, tensor in tensors.items())
    facts = container.facts()
    assert facts["file_bytes"] == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert facts["encodings"]["bitmask"]["tensors"] == 6
    assert facts["bits_per_weight"] == 8 * facts["file_bytes"] / (6 * 8 * 64 + 2)


def test_an_interrupted_writer_leaves_nothing_that_could_be_taken_for_a_container(tmp_path):
    def interrupted():
        with SparseContainerWriter(tmp_path, max_shard_bytes=10) as writer:
            for name in "abc":
                writer.add(name, Matrix(torch.ones(10)), candidates(Matrix(torch.ones(10)))[0])
            assert not list(tmp_path.glob("*.safetensors")) and len(list(tmp_path.iterdir())) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_index_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, {"a": torch.ones(3)})
    assert list(tmp_path.iterdir()) == []


def test_containers_are_not_overwritten_and_tensors_are_written_once(tmp_path):
    write(tmp_path, {"a": torch.ones(3)})
    with pytest.raises(InputError, match="already holds a sparse container"):
        SparseContainerWriter(tmp_path)
    writer = SparseContainerWriter(tmp_path / "b")
    writer.add("a", Matrix(torch.ones(3)), candidates(Matrix(torch.ones(3)))[0])
    with pytest.raises(ComputationError, match="'a' was written twice"):
        writer.add("a", Matrix(torch.ones(3)), candidates(Matrix(torch.ones(3)))[0])
    with pytest.raises(ComputationError, match="no tensor was written"):
        SparseContainerWriter(tmp_path / "c").close()
    with pytest.raises(ComputationError, match="complex128"):
        candidates(Matrix(torch.zeros(1, dtype=torch.complex128)))


def test_a_missing_tensor_is_named_with_the_nearest(tmp_path):
    write(tmp_path, {"layer.weight": torch.ones(3)})
    with pytest.raises(InputError, match=r"no tensor 'layer\.weigth'; the nearest of its 1 tensors is 'layer\.weight'"):
        SparseContainer(tmp_path).load("layer.weigth")


GOOD = {
    "bitmask": sparse(4, 20, 0.5, torch.float32),
    "n_of_m": torch.tensor([[1.0, 2, 0, 0, 3, 0, 0, 0, 0, 5, 6, 0]]),
    "csr": sparse(4, 20, 0.9, torch.float32, seed=3),
    "codes": coded(columns=20, size=7, dtype=torch.float32),
}


def parts_changed(directory: Path, changes: dict[str, object]) -> None:
    """Write the only shard of a container again with parts changed, and the index with its new size."""
    from safetensors.torch import load_file

    path = directory / SHARD
    tensors = load_file(path)
    for part, change in changes.items():
        tensors[f"w/{part}"] = change(tensors[f"w/{part}"].clone()).contiguous()
    path.unlink()
    write_file(path, tensors)
    entry_changed(directory, {})


def entry_changed(directory: Path, changes: dict[str, object]) -> None:
    index = json.loads((directory / "sparse_container.json").read_text())
    index["tensors"]["w"] |= changes
    index["files"] = {name: (directory / name).stat().st_size for name in index["files"]}
    (directory / "sparse_container.json").write_text(json.dumps(index))


def at(*place, value):
    def change(tensor):
        tensor[place] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("encoding", "part", "change", "said"),
    [
        ("bitmask", "mask", at(0, 2, value=0xFF), "bits that stand for nothing are set"),
        ("bitmask", "mask", lambda mask: mask * 0, "its mask has 0 bits set, for"),
        ("n_of_m", "indices", lambda stream: stream * 0, "the places within a group do not increase"),
        ("n_of_m", "indices", at(-1, value=0xF9), "bits that stand for nothing are set"),
        ("csr", "crow", at(0, value=1), "its rows do not begin one after another"),
        ("csr", "crow", at(1, value=-1), "its rows do not begin one after another"),
        ("csr", "crow", at(2, value=2**31 - 1), "its rows do not begin one after another"),
        ("csr", "crow", at(-1, value=2), "its rows do not begin one after another"),
        ("csr", "columns", at(0, value=20), "a column is not among its 20"),
        ("csr", "columns", lambda columns: columns * 0, "the columns of a row do not increase"),
        ("codes", "codes", at(-1, value=0xFF), "bits that stand for nothing are set"),
        ("codes", "mask", lambda mask: mask * 0, "its mask has 0 bits set"),
        ("codes", "zero", at(-1, value=0xFF), "bits that stand for nothing are set"),
    ],
)
def test_parts_that_contradict_themselves_are_refused_in_one_sentence(tmp_path, encoding, part, change, said):
    write(tmp_path, {"w": GOOD[encoding]}, encoding)
    parts_changed(tmp_path, {part: change})
    container = SparseContainer(tmp_path)
    with pytest.raises(InputError, match=said) as refusal:
        container.load("w")
    assert "of tensor 'w'" in str(refusal.value) and "\n" not in str(refusal.value)


def test_places_beyond_the_end_of_a_group_whose_size_is_no_power_of_two_are_refused(tmp_path):
    weight = torch.tensor([[0.0, 1, 2, 0, 3, 0]])
    write(tmp_path, {"w": weight}, "n_of_m", (2, 3))
    assert SparseContainer(tmp_path).load("w").equal(weight)
    parts_changed(tmp_path, {"indices": lambda stream: stream | 0b1100})
    with pytest.raises(InputError, match="a place within a group of 3 is beyond its end"):
        SparseContainer(tmp_path).load("w")


def test_a_grid_that_does_not_exist_is_refused(tmp_path):
    matrix = coded()
    order = torch.randperm(24)
    grid = StoredGrid(matrix.grid.codes, matrix.grid.scale, matrix.grid.zero, matrix.grid.group[order], 3)
    matrix = Matrix(grid.weight.bfloat16(), grid)
    write(tmp_path, {"w": matrix}, "codes")
    assert raw(SparseContainer(tmp_path).load("w")) == raw(matrix.weight) == container_oracle.read(tmp_path)["w"]
    parts_changed(tmp_path, {"group": at(5, value=3)})
    with pytest.raises(InputError, match="the grid of a column is not among its 3"):
        SparseContainer(tmp_path).load("w")


@pytest.mark.parametrize(
    ("encoding", "changes", "said"),
    [
        ("bitmask", {"file": "../sparse-00001-of-00001.safetensors"}, "which is none of its files"),
        ("bitmask", {"shape": [2**40, 20]}, r"asks for torch.uint8 \[1099511627776, 3\]"),
        ("csr", {"shape": [4, 2**40]}, "would take"),
        ("csr", {"shape": [2**20, 2**42]}, "larger than any memory"),
        ("bitmask", {"shape": [-4, -20]}, "greater than or equal to 0"),
        ("bitmask", {"shape": [4, True]}, "valid integer"),
        ("bitmask", {"shape": [20, 4]}, r"'w/mask' as torch.uint8 \[4, 3\], where .* asks for torch.uint8 \[20, 1\]"),
        ("bitmask", {"shape": [80]}, "only matrices"),
        ("bitmask", {"dtype": "F16"}, "as torch.float32"),
        ("bitmask", {"dtype": "I32"}, "only matrices of floating point"),
        ("bitmask", {"count": 10**30}, "less than"),
        ("bitmask", {"count": 3}, "'w/values'"),
        ("bitmask", {"encoding": "csr"}, "lacks the part 'w/columns'"),
        ("bitmask", {"encoding": "pickle"}, "does not match any of the expected tags"),
        ("bitmask", {"padding": 1}, "unexpected keyword"),
        ("n_of_m", {"n": 4}, "n must be below m"),
        ("n_of_m", {"m": 5}, "m must divide the columns"),
        ("n_of_m", {"m": 0}, "greater than or equal to 2"),
        ("codes", {"bits": 9}, "less than or equal to 8"),
        ("codes", {"group_size": 0}, "greater than or equal to 1"),
        ("codes", {"group_size": 2}, "another number of groups"),
        ("codes", {"groups": 2**40}, "less than"),
        ("codes", {"count": 81}, "more codes than weights"),
    ],
)
def test_entries_that_lie_are_refused_when_the_container_is_opened(tmp_path, encoding, changes, said):
    write(tmp_path, {"w": GOOD[encoding]}, encoding)
    entry_changed(tmp_path, changes)
    with pytest.raises(InputError, match=said) as refusal:
        SparseContainer(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "model.safetensors", f"{SHARD}\n"])
def test_files_with_other_names_than_shards_have_are_refused(tmp_path, name):
    write(tmp_path, {"w": torch.ones(3)})
    index = json.loads((tmp_path / "sparse_container.json").read_text())
    index["files"][name] = 10
    (tmp_path / "sparse_container.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="string should match pattern"):
        SparseContainer(tmp_path)


def test_ten_bytes_that_claim_a_terabyte_are_refused(tmp_path):
    entry = {"encoding": "dense", "shape": [2**40], "dtype": "U8", "file": SHARD}
    index = {"format": "espalier-sparse", "version": 1, "files": {entry["file"]: 10}, "tensors": {"w": entry}}
    (tmp_path / "sparse_container.json").write_text(json.dumps(index))
    (tmp_path / entry["file"]).write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="lacks the part 'w/values'"):
        SparseContainer(tmp_path)
    (tmp_path / entry["file"]).write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="truncated or damaged"):
        SparseContainer(tmp_path)


def test_a_newer_version_a_strange_index_and_hidden_parts_are_refused(tmp_path):
    write(tmp_path, {"w": torch.ones(3)})
    path = tmp_path / "sparse_container.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"version": 2, "new": 1}))
    with pytest.raises(InputError, match="of version 2, and only 1 can be read here"):
        SparseContainer(tmp_path)
    for strange in (b"", b"[]", b"{", b"[" * 10**5, b'{"a": ' * 10**5, b"1" * 5000, b"\xff\xfe", b'"\\ud800"'):
        path.write_bytes(strange)
        with pytest.raises(InputError, match="is damaged"):
            SparseContainer(tmp_path)
    shard = tmp_path / SHARD
    shard.unlink()
    write_file(shard, {"w/values": torch.ones(3), "w/more": torch.ones(3)})
    path.write_text(json.dumps(index | {"files": {shard.name: shard.stat().st_size}}))
    with pytest.raises(InputError, match="holds, unlike the index says, the part 'w/more'"):
        SparseContainer(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="holds no sparse container"):
        SparseContainer(tmp_path)


def test_the_reader_in_the_documentation_reads_a_bit_mask(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
    code = page.partition("## Sparse container")[2].partition("```python\n")[2].partition("```")[0]
    weight = sparse(6, 20, 0.5, torch.float16)
    write(tmp_path, {"model.layers.0.mlp.up_proj.weight": weight}, "bitmask")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    assert found["dense"].tobytes() == raw(weight)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(draw=st.randoms(use_true_random=False), seed=st.integers(0, 19))
def test_whatever_is_damaged_is_refused_or_is_another_valid_container(draw, seed, tmp_path_factory):
    damaged = mutated(draw, container_files(tmp_path_factory, seed))
    found = read_all(damaged)
    if found is None:
        return
    directory = tmp_path_factory.mktemp("damaged")
    for name, content in damaged.items():
        (directory / name).write_bytes(content)
    index = json.loads((directory / "sparse_container.json").read_bytes())
    shards = {file: container_oracle.shard(directory / file) for file in index["files"]}
    for name, tensor in found.items():
        entry = index["tensors"][name]
        if tensor is None or (entry["encoding"] == "codes" and tensor.itemsize == 1):
            continue
        documented = container_oracle.decoded(name, entry, shards[entry["file"]])
        if entry["encoding"] == "codes" and tensor.isnan().any():
            # A damaged scale: which of the many NaN comes out of a rounding is left to the machine.
            documented = bytearray(documented)
            same = torch.frombuffer(documented, dtype=tensor.dtype).view(tensor.shape)
            assert same.isnan().equal(tensor.isnan()) and same.nan_to_num(0.0).equal(tensor.nan_to_num(0.0))
        else:
            # Any byte but 0 is true.
            truth = entry["dtype"] == "BOOL"
            assert (bytes(map(bool, documented)) if truth else documented) == raw(tensor)


CONTAINERS: dict[int, dict[str, bytes]] = {}


def container_files(tmp_path_factory, seed: int) -> dict[str, bytes]:
    if seed not in CONTAINERS:
        directory = tmp_path_factory.mktemp("valid")
        valid_container(Random(seed), directory)
        CONTAINERS[seed] = files_of(directory)
    return CONTAINERS[seed]
