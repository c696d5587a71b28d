"""The Triton kernel under the interpreter, against the readable kernel and the references; compiled for a real GPU.

Under TRITON_INTERPRET=0 the same tests run on a GPU; where there is one, the last test has them do so.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_cases import compare, method_of
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import layer
from safetensors.torch import load_file

from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.column_sweep import GroupRule, kernels, torch_kernel
from pruning_core.column_sweep.grids import BlockGrid
from pruning_core.column_sweep.kernels import kernel_for
from pruning_core.compress.factor import factorize
from pruning_core.errors import InputError
from pruning_core.settings.method import compress_layer

pytest.importorskip("triton", reason="the package triton is not installed")
from pruning_core.column_sweep import triton_kernel

DEVICE = torch.device("cpu" if triton_kernel.INTERPRETED else "cuda")
ROOT = Path(__file__).resolve().parents[3]


def fixed(kernel, rows: int, width: int, groups: GroupRule | None = None, top: int = 0, runs: int = 1, seed: int = 0):
    """(weight, removed, error, codes or None) of one block, which is a part of a wider matrix."""
    weight, inputs = layer(rows, width, tokens=4 * width + 50, seed=seed)
    upper = factorize(LayerStatistics.from_inputs(inputs).hessian(), 0.01).upper.contiguous()
    draw = torch.Generator().manual_seed(seed)
    removed = torch.rand(rows, width, generator=draw) < (0.0 if groups else 0.5)
    scale = torch.rand(width, generator=draw) + 0.1
    wider = torch.full((rows, width + 9), torch.nan, device=DEVICE)
    block = wider[:, 5 : 5 + width]
    block.copy_(weight)
    removed, error = removed.to(DEVICE), torch.full((rows, width), torch.nan, device=DEVICE)
    grid = None
    if top:
        step = torch.rand(rows, runs, generator=draw) * 0.3 + 0.05
        zero = torch.randint(0, top + 1, (rows, runs), generator=draw).float()
        group = torch.randint(0, runs, (width,), generator=draw)
        codes = torch.zeros(rows, width, dtype=torch.uint8, device=DEVICE)
        grid = BlockGrid(step.to(DEVICE), zero.to(DEVICE), group.to(DEVICE), top, codes)
    kernel(block, upper.to(DEVICE), removed, error, scale.to(DEVICE), groups, grid)
    assert wider[:, :5].isnan().all() and wider[:, 5 + width :].isnan().all()
    return block, removed, error, grid and grid.codes


def assert_repeats(*case, **options):
    """Codes and masks may differ where a value lies on the edge between two; the interpreter makes no difference."""
    fast, slow = (fixed(module.fix_columns, *case, **options) for module in (triton_kernel, torch_kernel))
    if triton_kernel.INTERPRETED or fast[3] is None:
        for one, other in zip(fast[:3], slow[:3], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    if fast[3] is not None:
        assert (fast[3] != slow[3]).float().mean() < (1e-9 if triton_kernel.INTERPRETED else 1e-3)


@pytest.mark.parametrize("width", [1, 16, 100, 128])
def test_a_fixed_mask_gives_what_the_readable_kernel_gives(width):
    assert_repeats(19, width)


@pytest.mark.parametrize(
    "groups",
    [GroupRule(4, 2, 1), GroupRule(8, 5, 2), GroupRule(3, 1, 1), GroupRule(32, 16, 3), GroupRule(64, 64, 0)],
)
def test_groups_are_chosen_as_the_readable_kernel_chooses_them(groups):
    assert_repeats(17, 42, groups)


@pytest.mark.parametrize("groups", [None, GroupRule(4, 2, 0)])
@pytest.mark.parametrize(("top", "runs"), [(15, 1), (15, 5), (255, 2), (3, 1)])
def test_grids_round_as_the_readable_kernel_does(groups, top, runs):
    assert_repeats(17, 36, groups, top=top, runs=runs)


@pytest.mark.parametrize(
    ("width", "groups", "top"), [(140, None, 15), (133, GroupRule(12, 5, 1), 0), (150, GroupRule(144, 70, 3), 0)]
)
def test_blocks_wider_than_a_tile_are_split_and_a_wider_group_is_not(width, groups, top):
    assert_repeats(3, width, groups, top=top, runs=2)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(1, 24), st.integers(2, 9), st.booleans(), st.booleans(), st.integers(0, 99))
def test_any_small_block_comes_out_as_from_the_readable_kernel(rows, width, size, grouped, quantized, seed):
    last = min(size - 1, width % size)
    groups = GroupRule(size, size - 1, last) if grouped else None
    assert_repeats(rows, width, groups, top=7 if quantized else 0, runs=3, seed=seed)


def alone(weight, removed=None, groups=None, grid=None):
    """(weight, removed) after columns that do not influence each other."""
    rows, width = weight.shape
    weight = weight.clone().to(DEVICE)
    removed = torch.zeros(rows, width, dtype=torch.bool, device=DEVICE) if removed is None else removed.to(DEVICE)
    error, scale = torch.empty(rows, width, device=DEVICE), torch.ones(width, device=DEVICE)
    triton_kernel.fix_columns(weight, torch.eye(width, device=DEVICE), removed, error, scale, groups, grid)
    return weight.cpu(), removed.cpu()


def test_of_equal_scores_the_lower_columns_go_in_whole_groups_and_in_the_last_one():
    signs = torch.tensor([1.0, -1.0]).repeat(11, 5)
    weight, removed = alone(signs, groups=GroupRule(4, 2, 1))
    expected = [column in (0, 1, 4, 5, 8) for column in range(10)]
    assert removed.tolist() == [expected] * 11
    assert torch.equal(weight, signs * torch.tensor(expected).logical_not())


def test_halves_go_to_the_even_code_and_far_values_to_the_ends_of_the_grid():
    values = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 1e30, -1e30, 3e38, -4.0, 11.2]
    one, codes = torch.ones(1, 1, device=DEVICE), torch.zeros(1, len(values), dtype=torch.uint8, device=DEVICE)
    grid = BlockGrid(one, one * 3, torch.zeros(len(values), dtype=torch.int64, device=DEVICE), 15, codes)
    weight, _ = alone(torch.tensor([values]), grid=grid)
    expected = [min(max(round(value) + 3, 0), 15) for value in values]
    assert codes.tolist() == [expected]
    assert weight.tolist() == [[code - 3 for code in expected]]


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_value_that_is_no_number_is_not_rounded_away():
    one, codes = torch.ones(2, 1, device=DEVICE), torch.zeros(2, 2, dtype=torch.uint8, device=DEVICE)
    grid = BlockGrid(one, one, torch.zeros(2, dtype=torch.int64, device=DEVICE), 15, codes)
    weight, _ = alone(torch.tensor([[0.0, torch.nan], [0.0, 1.0]]), grid=grid)
    assert weight[0, 1].isnan() and weight[1].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("stories260K-block1-down_proj", ["sparsegpt-0.5", "sparsegpt-2of4-int4"]),
        ("stories260K-block1-q_proj", ["sparsegpt-2of4", "sparsegpt-0.5-int4", "gptq-int4-sym-g64-actorder-static"]),
    ],
)
def test_the_result_is_that_of_the_reference_implementation(shared: Path, monkeypatch, name: str, cases: list[str]):
    # The interpreter's time goes by programs, not by rows.
    monkeypatch.setattr(triton_kernel, "ROWS", 64)
    tensors = load_file(shared / "golden" / f"{name}.safetensors")
    known = LayerStatistics.from_inputs(tensors["inputs"].to(DEVICE))
    for case in cases:
        done = compress_layer(tensors["weight"].to(DEVICE), known, kernel="triton", **method_of(case))
        compare(case, tensors["weight"], tensors["hessian"].double(), done.weight.cpu(), tensors[f"out/{case}"])


def test_a_gpu_gets_the_triton_kernel_and_a_cpu_the_numba_one():
    assert kernel_for("auto", torch.device("cuda")) is triton_kernel.fix_columns
    assert kernel_for("auto", torch.device("cpu")).__module__ == "pruning_core.column_sweep.numba_kernel"


def test_without_the_package_a_gpu_gets_the_readable_kernel_and_asking_is_refused(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert kernel_for("auto", torch.device("cuda")) is torch_kernel.fix_columns
    with pytest.raises(InputError, match="not installed; use kernel auto"):
        kernel_for("triton", torch.device("cuda"))


def test_a_cpu_without_the_interpreter_is_refused(monkeypatch):
    monkeypatch.setattr(triton_kernel, "INTERPRETED", False)
    with pytest.raises(InputError, match="runs on a GPU, not on cpu; use kernel auto, or set TRITON_INTERPRET=1"):
        kernel_for("triton", torch.device("cpu"))


def compiling(*command: str) -> subprocess.CompletedProcess[str]:
    """Run Python with Triton's compiler in the place of its interpreter."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the compiler for GPUs comes with Triton on Linux only")
@pytest.mark.slow
def test_the_kernel_compiles_for_an_h100_and_its_tile_fits_the_registers(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    cases = [(None, False), (4, False), (None, True), (4, True)]
    told = compiling(str(ROOT / "tests" / "helpers" / "compiled_for_a_gpu.py"), json.dumps(cases))
    assert told.returncode == 0, told.stderr
    for case, program in zip(cases, json.loads(told.stdout), strict=True):
        assert program["stack"] == 0, case
        # Three tiles of 128 threads fit a multiprocessor, which has 65,536 registers.
        assert program["registers"] <= 65536 // 128 // 3, case


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_a_gpu_passes_these_tests_too():
    told = compiling("-m", "pytest", "-p", "no:cacheprovider", "-k", "not gpu and not h100", __file__)
    assert told.returncode == 0, told.stdout
