"""2:4 against what PyTorch itself says and does."""

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    _calculate_meta_reordering_scatter_offsets,
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from pruning_core.errors import InputError
from pruning_core.semi_structured import MULTIPLES, misfit, packed_2of4, to_semi_structured

PEERS = {"cutlass": SparseSemiStructuredTensorCUTLASS, "cusparselt": SparseSemiStructuredTensorCUSPARSELT}
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def two_of_four(rows: int, columns: int, dtype=torch.float16, seed: int = 0) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns // 4, 4, generator=noise)
    order = torch.rand(weight.shape, generator=noise).argsort(dim=2)
    return weight.masked_fill(order < 2, 0.0).view(rows, columns).to(dtype)


@pytest.mark.parametrize("backend", MULTIPLES)
def test_sizes_are_held_against_the_rules_of_this_pytorch(backend):
    rules = PEERS[backend]._DTYPE_SHAPE_CONSTRAINTS
    assert {d: (rules[d].sparse_min_rows, rules[d].sparse_min_cols) for d in MULTIPLES[backend]} == MULTIPLES[backend]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(32, 64), (64, 128), (96, 320)])
def test_values_and_places_are_those_that_pytorch_hands_to_cutlass(dtype, shape):
    weight = two_of_four(*shape, dtype)
    values, places = packed_2of4(weight)
    theirs, reordered = sparse_semi_structured_from_dense_cutlass(weight)
    offsets = _calculate_meta_reordering_scatter_offsets(shape[0], shape[1] // 16, torch.int16, weight.device)
    assert values.equal(theirs)
    assert places.view(-1).equal(reordered.view(-1)[offsets])


def test_pytorch_makes_the_same_matrix_of_groups_with_fewer_than_two_weights():
    weight = two_of_four(64, 128)
    weight[torch.rand(64, 128, generator=torch.Generator().manual_seed(1)) < 0.4] = 0.0
    weight[3], weight[:, 8:16] = 0.0, 0.0
    values, places = packed_2of4(weight)
    offsets = _calculate_meta_reordering_scatter_offsets(64, 8, torch.int16, weight.device)
    reordered = torch.empty(64 * 8, dtype=torch.int16).scatter_(0, offsets, places.view(-1))
    assert sparse_semi_structured_to_dense_cutlass(values, reordered.view(64, 8)).equal(weight)


@pytest.mark.parametrize(
    ("weight", "backend", "reason"),
    [
        (two_of_four(32, 64), "cutlass", None),
        (two_of_four(16, 16), "cusparselt", None),
        (two_of_four(16, 16), "cutlass", "multiples of 32 and columns of 64, not 16x16"),
        (two_of_four(32, 64, torch.float32), "cutlass", "torch.float32"),
        (two_of_four(32, 64).mul(9).to(torch.int8), "cutlass", "columns of 128"),
        (two_of_four(16, 128).mul(9).to(torch.int8), "cutlass", None),
        (torch.ones(32, 64).half(), "cutlass", "more than 2 of 4"),
        (torch.ones(64).half(), "cutlass", "not that of a matrix"),
    ],
)
def test_a_weight_fits_or_the_reason_is_said(weight, backend, reason):
    found = misfit(weight, backend)
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize("weight", [torch.ones(4, 16).half(), two_of_four(4, 16).float(), two_of_four(4, 8)])
def test_what_is_not_2_of_4_is_not_packed(weight):
    with pytest.raises(InputError, match="a matrix in 2:4"):
        packed_2of4(weight)


def test_without_a_gpu_one_sentence_says_why_and_the_model_is_unchanged():
    model = nn.Sequential(nn.Linear(64, 32)).half()
    model[0].weight.data = two_of_four(32, 64)
    with pytest.raises(InputError, match="for CUDA only, and the model is on cpu"):
        to_semi_structured(model)
    assert type(model[0].weight) is nn.Parameter


@GPU
def test_on_a_gpu_fitting_layers_give_the_outputs_of_the_dense_ones():
    model = nn.Sequential(nn.Linear(128, 64), nn.Linear(64, 24)).half().cuda()
    model[0].weight.data = two_of_four(64, 128).cuda()
    inputs = torch.randn(32, 128, device="cuda").half()
    dense = model[0](inputs)
    left = to_semi_structured(model)
    assert list(left) == ["1"]
    torch.testing.assert_close(model[0](inputs), dense, rtol=2e-3, atol=2e-3)
