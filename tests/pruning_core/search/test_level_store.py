"""Stored levels against the masks and weights that the methods make directly."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pruning_core.calibration.collect import collect
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.checkpoint.bit_masks import pack_mask, unpack_mask
from pruning_core.checkpoint.model_files import read_config
from pruning_core.compress.block import compress_block_from
from pruning_core.compress.shares import Shares
from pruning_core.errors import InputError
from pruning_core.model.decoder import Decoder, matrix
from pruning_core.search.level_store import LevelStore, compress_levels
from pruning_core.settings.method import build_method

ZEROS = {"unit": "zeros", "fractions": (0.0, 0.3, 0.45, 0.6, 0.7, 0.9)}
KEPT = {"unit": "n", "fractions": (8, 5, 4, 3, 1)}
WANDA = {"saliency": {"name": "wanda"}, "compensation": {"name": "none", "block": 8}, "sparsity": 0.5}
OBS = {"saliency": {"name": "obs"}, "compensation": {"name": "sweep", "block": 8}, "sparsity": 0.5}


def unstructured(scope: str) -> dict:
    return {"pattern": {"name": "unstructured", "scope": scope}}


MASKS = {scope: (WANDA | unstructured(scope), ZEROS) for scope in ("row", "matrix", "block")}
EIGHT = {"pattern": {"name": "n_of_m", "n": 2, "m": 8}, "sparsity": None}
MASKS["n_of_m"] = (WANDA | EIGHT, KEPT)
CHANGED = {"sparsegpt": (OBS | unstructured("block"), ZEROS), "sparsegpt n_of_m": (OBS | EIGHT, KEPT)}
AFFINE = {"name": "affine", "bits": 4, "group_size": 8}
CHANGED["quantized"] = (OBS | unstructured("block") | {"quantizer": AFFINE}, ZEROS)


@pytest.fixture
def decoder(tiny_directory: Path) -> Decoder:
    return Decoder(tiny_directory, read_config(tiny_directory))


def dense_statistics(decoder: Decoder) -> list:
    windows = torch.randint(0, 50, (8, 16), generator=torch.Generator().manual_seed(0))
    states = HiddenStates.at_entry(decoder, windows)
    decoder.load_block(0)
    return collect(decoder, 0, states)


def shares_of(decoder: Decoder, menu: dict) -> dict[str, list[int]]:
    linears = decoder.linears(0)
    if menu["unit"] == "n":
        return {name: list(menu["fractions"]) for name in linears}
    return {name: [int(share * m.weight.numel()) for share in menu["fractions"]] for name, m in linears.items()}


def stored(decoder: Decoder, kind: tuple, folder: Path):
    spec, menu = kind
    method = build_method(spec)
    known = dense_statistics(decoder)
    shares = shares_of(decoder, menu)
    found = compress_levels(decoder, 0, known, method, menu["unit"], shares)
    save_file(found.tensors, folder / "levels.safetensors")
    return known, method, shares, found, LevelStore([folder / "levels.safetensors"])


@pytest.mark.parametrize("kind", MASKS)
def test_one_byte_per_weight_gives_the_direct_mask_at_every_level(decoder: Decoder, tmp_path: Path, kind: str):
    known, method, shares, found, store = stored(decoder, MASKS[kind], tmp_path)
    groups = {name: statistics for group, statistics in known for name in group.names}
    assert {name.rpartition(".")[2] for name in found.tensors} == {"first"}
    for name, module in decoder.linears(0).items():
        dense = matrix(module)
        score = dense.square() * groups[name].hessian_diag()
        for level, share in enumerate(shares[name]):
            own = Shares(MASKS[kind][1]["unit"], {name: share}).applied(method, name, dense.numel())
            removed = own.pattern.removed(score, own.sparsity, 8)
            assert torch.equal(store.weight(name, level, dense), dense.masked_fill(removed, 0.0))


@pytest.mark.parametrize("kind", [*MASKS, *CHANGED])
def test_a_level_is_bit_for_bit_what_compression_with_that_share_makes(decoder: Decoder, tmp_path: Path, kind: str):
    chosen = {**MASKS, **CHANGED}[kind]
    known, method, shares, _, store = stored(decoder, chosen, tmp_path)
    dense = {name: matrix(module).clone() for name, module in decoder.linears(0).items()}
    # Another level for each matrix, as in a candidate.
    levels = {name: index % len(shares[name]) for index, name in enumerate(dense)}
    mixed = Shares(chosen[1]["unit"], {name: shares[name][level] for name, level in levels.items()})
    outcome = compress_block_from(decoder, 0, known, method, mixed)
    for name, level in levels.items():
        assert torch.equal(store.weight(name, level, dense[name]), outcome.weights[f"{name}.weight"])


@pytest.mark.parametrize("kind", CHANGED)
def test_levels_leave_the_block_as_it_is_and_know_what_they_cost(decoder: Decoder, tmp_path: Path, kind: str):
    known, _, shares, found, store = stored(decoder, CHANGED[kind], tmp_path)
    decoder.load_block(0)
    groups = {name: statistics for group, statistics in known for name in group.names}
    assert [facts["name"] for facts in found.matrices] == list(decoder.linears(0))
    for facts in found.matrices:
        dense = matrix(decoder.linears(0)[facts["name"]])
        hessian = groups[facts["name"]].hessian().double()
        assert facts["weight_loss"] == pytest.approx(0.5 * float((dense.double() @ hessian @ dense.double().T).trace()))
        for level, (known_level, share) in enumerate(zip(facts["levels"], shares[facts["name"]], strict=True)):
            change = (store.weight(facts["name"], level, dense) - dense).double()
            assert known_level["share"] == share
            assert known_level["loss"] == pytest.approx(
                0.5 * float((change @ hessian @ change.T).trace()), rel=1e-4, abs=1e-9
            )
            assert known_level["change"] == pytest.approx(float(change.square().sum()), rel=1e-5, abs=1e-12)


def test_memory_for_decoded_levels_is_bounded_and_changes_nothing(decoder: Decoder, tmp_path: Path):
    *_, shares, _, store = stored(decoder, CHANGED["sparsegpt"], tmp_path)
    tight = LevelStore([tmp_path / "levels.safetensors"], decoded=2000)
    for _ in range(2):
        for name, module in decoder.linears(0).items():
            for level in range(len(shares[name])):
                assert torch.equal(tight.weight(name, level, module.weight), store.weight(name, level, module.weight))
    assert sum(weight.numel() * 4 for weight in tight._decoded.values()) <= 2000


def test_masks_at_one_bit_come_back(tmp_path: Path):
    keep = torch.rand(5, 19, generator=torch.Generator().manual_seed(0)) < 0.5
    assert pack_mask(keep).shape == (5, 3) and torch.equal(unpack_mask(pack_mask(keep), 19), keep)


def test_more_levels_than_a_byte_can_number_are_refused(decoder: Decoder):
    known = dense_statistics(decoder)
    shares = {name: list(range(256)) for name in decoder.linears(0)}
    with pytest.raises(InputError, match="256 levels"):
        compress_levels(decoder, 0, known, build_method(MASKS["matrix"][0]), "zeros", shares)
