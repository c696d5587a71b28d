"""ONNX exports: integers carried as they are, zeros kept, damaged and crafted files refused, killed writes taken up."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf_models import saved
from killed_writes import behind, interrupted, killed
from onnx_graphs import needs_onnx, traced_once
from quantized_variants import coded, exported, variant
from transformers import GPT2Config, LlamaConfig

from pruning_core.checkpoint.stored_model import StoredGrid, StoredModel
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.export.onnx import assembly, blocks, packages
from pruning_core.export.onnx.packages import DATA, FILE
from pruning_core.progress import ignore_progress

ROOT = Path(__file__).resolve().parents[4]
FORM = FORMATS.build({"name": "onnx"})


@pytest.fixture(autouse=True)
def tracing(monkeypatch) -> None:
    monkeypatch.setattr(assembly, "traced", traced_once)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A random Llama of one block, whose head is its own."""
    return saved(LlamaConfig, tmp_path_factory.mktemp("onnx") / "source", num_hidden_layers=1)


def slowly_rounded(row: list[float], bits: int) -> list[float]:
    """By the definition: the code 0 is the weight of the largest size, and the middle one is zero."""
    found, middle = [], 2 ** (bits - 1)
    for start in range(0, len(row), blocks.ROUNDED):
        block = row[start : start + blocks.ROUNDED]
        scale = -max(block, key=abs) / middle
        found += [scale * max(-middle, min(middle - 1, round(value / scale))) if scale else 0.0 for value in block]
    return found


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [32, 40, 96])
def test_rounding_is_to_the_nearest_and_zeros_stay_exactly_zero(bits, columns):
    weight = torch.randn(6, columns, generator=torch.Generator().manual_seed(columns))
    weight[:, ::3] = 0
    weight[2] = 0
    packed = blocks.rounded(weight, bits)
    wanted = torch.tensor([slowly_rounded(row, bits) for row in weight.double().tolist()])
    torch.testing.assert_close(packed.weight, wanted.float(), rtol=1e-5, atol=1e-6)
    assert not packed.weight[weight == 0].count_nonzero()


@pytest.mark.parametrize(("bits", "count"), [(4, 7), (4, 8), (8, 5)])
def test_packed_integers_come_back_and_lie_the_first_one_lowest(bits, count):
    draw = torch.Generator().manual_seed(count)
    zero = torch.randint(2**bits, (3, count), generator=draw, dtype=torch.uint8)
    codes = torch.randint(2**bits, (3, 16 * count - 5), generator=draw, dtype=torch.uint8)
    made = blocks.Blocks(codes, torch.ones(3, count), zero, bits, 16)
    packed = blocks.pack_codes(made)
    assert packed.shape == (3, count, 2 * bits)
    assert torch.equal(blocks.unpack_codes(packed.flatten(1), bits, codes.shape[1]), codes)
    assert torch.equal(blocks.unpack_codes(blocks.pack_zeros(made), bits, count), zero)
    assert int(packed[0, 0, 0]) == int(codes[0, 0]) + (16 * int(codes[0, 1]) if bits == 4 else 0)


@pytest.mark.parametrize(
    ("group", "size"),
    [
        ([0] * 96, 32),
        ([0] * 128, 128),
        ([0] * 40, 16),
        ([column // 64 for column in range(256)], 64),
        ([column // 48 for column in range(96)], 16),
        ([column // 24 for column in range(96)], None),
        ([column % 2 for column in range(96)], None),
    ],
)
def test_a_block_is_as_large_as_one_grid_allows(group, size):
    assert blocks.block_size(torch.tensor(group)) == size


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "size"), [(4, 32), (4, None), (8, 16), (8, None), (3, 64), (2, 48), (5, 32)])
def test_own_integers_are_read_back_bit_for_bit(source, tmp_path, bits, size, symmetric):
    model = coded(source, tmp_path / "variant", 0, bits, size, symmetric)
    told = exported(FORM, model, tmp_path / "out")
    assert told["matrices_with_own_codes"] == 7 and told["types"] == {f"int{4 if bits <= 4 else 8}": 7, "float32": 5}
    weights = FORM.read(tmp_path / "out")
    for matrix in model.matrices:
        grid, own_blocks = model.grid(matrix), weights.blocks(matrix.stored)
        block = torch.arange(matrix.columns) // own_blocks.size
        own = grid.codes.float() - grid.zero[:, grid.group.long()]
        assert torch.equal(own_blocks.codes.float() - own_blocks.zero.float()[:, block], own)
        assert torch.equal(own_blocks.scale[:, block], grid.scale[:, grid.group.long()])
        assert torch.equal(weights.load(matrix.stored), grid.weight)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"type": "float32"}, {"type": "int8"}, {"type": "int4", "head": "int8"}], ids=str
)
def test_removed_weights_stay_zero_and_exact_types_give_every_weight_back(source, tmp_path, options):
    form = FORMATS.build({"name": "onnx", **options})
    model = variant(source, tmp_path / "variant", bits=4, group_size=32)
    told = exported(form, model, tmp_path / "out")
    weights = form.read(tmp_path / "out")
    assert weights.names() == model.names()
    equal = [torch.equal(weights.load(name), model.load(name)) for name in model.names()]
    assert form.exact == all(equal)
    removed = [(weights.load(matrix.stored), model.keep(matrix)) for matrix in model.matrices]
    assert all(not weight[~keep].count_nonzero() for weight, keep in removed)
    zeros = told["zeros"]
    assert zeros["before"] == zeros["kept"] == sum(int((model.load(name) == 0).sum()) for name in model.names())
    assert zeros["before"] >= sum(int((~keep).sum()) for _, keep in removed) > 0


@needs_onnx
@pytest.mark.slow
def test_the_graph_tells_nothing_of_the_machine_it_was_traced_on(source, tmp_path):
    exported(FORM, StoredModel(source), tmp_path / "out")
    graph = (tmp_path / "out" / FILE).read_bytes()
    assert b"model.layers.0.mlp.up_proj" in graph
    assert not [word for word in (b"site-packages", b".py", str(ROOT).encode()) if word in graph]


@needs_onnx
@pytest.mark.slow
def test_after_kill_9_an_export_ends_with_equal_bytes(source, tmp_path):
    spec, whole, out, held = {"name": "onnx", "type": "int8"}, tmp_path / "whole", tmp_path / "out", 5
    form, model = FORMATS.build(spec), StoredModel(source)
    whole.mkdir()
    form.write(model, whole, ignore_progress)
    killed(source, out, spec, held, torn=True)
    assert not (out / DATA).exists() and (out / f".{DATA}.partial").is_file()
    # Traced in another process.
    assert (out / FILE).read_bytes() == (whole / FILE).read_bytes()
    loaded: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        load = StoredModel.load
        patch.setattr(StoredModel, "load", lambda self, name: loaded.append(name) or load(self, name))
        form.write(model, out, ignore_progress)
    assert len(loaded) == len(model.names()) - held
    assert contents(out) == contents(whole)


@needs_onnx
@pytest.mark.slow
def test_torn_at_any_write_an_export_ends_with_equal_bytes(source, tmp_path):
    model, whole = StoredModel(source), tmp_path / "whole"
    whole.mkdir()
    FORM.write(model, whole, ignore_progress)
    for writes in range(behind(len(model.names()))):
        out = tmp_path / str(writes)
        interrupted(FORM, model, out, writes)
        FORM.write(model, out, ignore_progress)
        assert contents(out) == contents(whole) and sorted(contents(out)) == [FILE, DATA]


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def told(proto, key: str, value: str) -> None:
    """Alter what the first external weight says of itself."""
    tensor = next(one for one in proto.graph.initializer if one.external_data)
    next(entry for entry in tensor.external_data if entry.key == key).value = value


def widened(proto) -> None:
    next(one for one in proto.graph.initializer if one.external_data).dims[0] += 1


def with_bits(proto) -> None:
    node = next(node for node in proto.graph.node if node.op_type == packages.BLOCKED)
    next(one for one in node.attribute if one.name == "bits").i = 5


def nested(proto) -> None:
    proto.graph.node[0].attribute.add(name="then_branch").g.name = "within"


def with_function(proto) -> None:
    proto.functions.add(name="within")


def with_outer_constant(proto) -> None:
    proto.graph.node[0].attribute.add(name="value").t.data_location = 1


DAMAGE: dict[str, tuple[Callable, str]] = {
    "above": (lambda proto: told(proto, "location", "../model.onnx.data"), "must lie beside it"),
    "absolute": (lambda proto: told(proto, "location", "/etc/passwd"), "must lie beside it"),
    "below": (lambda proto: told(proto, "location", "a/b"), "must lie beside it"),
    "nowhere": (lambda proto: told(proto, "location", ""), "must lie beside it"),
    "missing": (lambda proto: told(proto, "location", "other.data"), "lies in no file"),
    "beyond": (lambda proto: told(proto, "offset", "99999999"), "is not where it says"),
    "negative": (lambda proto: told(proto, "offset", "-64"), "is not where it says"),
    "text": (lambda proto: told(proto, "offset", "here"), "is not where it says"),
    "longer": (lambda proto: told(proto, "length", "999999"), "is not where it says"),
    "wider": (widened, "is not where it says"),
    "bits": (with_bits, "of a kind that is not known here"),
    "nested": (nested, "graphs within its graph"),
    "function": (with_function, "graphs within its graph"),
    "constant": (with_outer_constant, "weights within its nodes"),
}


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGE)
def test_files_that_lie_are_refused(source, tmp_path, name):
    import onnx

    damage, said = DAMAGE[name]
    out = tmp_path / "out"
    exported(FORMATS.build({"name": "onnx", "type": "int4"}), StoredModel(source), out)
    proto = onnx.load(out / FILE, load_external_data=False)
    damage(proto)
    (out / FILE).write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=said):
        FORM.read(out)


@needs_onnx
@pytest.mark.slow
def test_files_that_were_cut_or_are_something_else_are_refused(source, tmp_path):
    out = tmp_path / "out"
    exported(FORM, StoredModel(source), out)
    data = (out / DATA).read_bytes()
    (out / DATA).write_bytes(data[:-100])
    with pytest.raises(InputError, match="is not where it says"):
        FORM.read(out)
    (out / FILE).write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="is no ONNX file, or damaged"):
        FORM.read(out)
    (out / FILE).unlink()
    with pytest.raises(InputError, match=f"has no {FILE}"):
        FORM.read(out)
    assert not FORM.recognises(out)


def test_what_the_graph_cannot_hold_is_refused_with_what_can(tmp_path):
    other = saved(GPT2Config, tmp_path / "gpt2", n_embd=32, n_layer=1, n_head=2)
    with pytest.raises(InputError, match=r"model_type 'gpt2' is none of llama.*use --format safetensors"):
        FORM.check(StoredModel(other))
    turning = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    other = saved(LlamaConfig, tmp_path / "dynamic", rope_parameters=turning, num_hidden_layers=1)
    with pytest.raises(InputError, match="rotary positions are of type 'dynamic', none of default, linear"):
        FORM.check(StoredModel(other))


def test_without_its_packages_the_sentence_says_how_to_get_them(source, tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda: False)
    for act in (lambda: FORM.check(StoredModel(source)), lambda: FORM.read(tmp_path)):
        with pytest.raises(InputError, match=r"pip install 'espalier\[onnx\]'"):
            act()


def test_a_directory_of_safetensors_with_a_graph_beside_is_one_of_safetensors(source, tmp_path):
    (tmp_path / FILE).touch()
    assert FORM.recognises(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert not FORM.recognises(tmp_path)


def test_more_bits_than_a_type_has_are_not_carried():
    grid = StoredGrid(
        torch.zeros(2, 32, dtype=torch.uint8), torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(32).int(), bits=5
    )
    assert blocks.carried(grid, 4) is None and blocks.carried(grid, 8).bits == 8
