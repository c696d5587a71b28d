"""What the memory benchmark counts and says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.memory.__main__ import Products
from benchmarks.memory.model import VARIANT, make_workspace, tinyllama_config
from benchmarks.memory.page import page
from benchmarks.memory.runs import exactly_sparse
from pruning_core.errors import ComputationError

RUN = {"peak_bytes": 2.0e9, "seconds": 100.0, "cpu_seconds": 150.0, "disk_bytes": 6e9, "blocks": 4}


def test_products_are_counted_in_place_too():
    left, right = torch.randn(3, 5), torch.randn(5, 7)
    with FlopCounterMode(display=False) as counter, Products() as seen:
        left @ right
        torch.addmm(torch.zeros(3, 7), left, right)
    assert seen.operations["products of matrices"] == counter.get_total_flops() == 2 * 2 * 3 * 5 * 7
    with Products() as seen:
        torch.zeros(3, 7).addmm_(left, right)
        torch.linalg.cholesky_ex(torch.eye(6))
    assert seen.operations["products of matrices"] == 2 * 3 * 5 * 7
    assert seen.operations["Cholesky and triangles"] == 6**3 / 3


@pytest.mark.parametrize(("zeros", "fits"), [(8, True), (7, False), (9, False)])
def test_exact_sparsity_is_read_from_the_weights(tmp_path: Path, zeros, fits):
    workspace = make_workspace(tmp_path / "w")
    model = workspace / "artifacts" / "models" / VARIANT
    model.mkdir(parents=True)
    weight = torch.ones(4, 4)
    weight.view(-1)[:zeros] = 0
    save_file({"a.weight": weight}, model / "model.safetensors")
    (model / "manifest.json").write_text(json.dumps({"facts": {"layers": [{"stored": "a.weight"}]}}))
    if fits:
        assert exactly_sparse(workspace) == 1
        return
    with pytest.raises(ComputationError, match=f"{zeros} zeros among 16"):
        exactly_sparse(workspace)


def test_the_page_sets_predictions_beside_measurements():
    parts = {"products": 1e12, "total": 1e12}
    plan = {"blocks": 4, "parameters": 1.1e9, "ram": {"factor": 1.8e9, "peak": 1.8e9}, "disk": {"total": 6e9}}
    plan |= {"flops": parts, "seconds": {"total": 90.0}, "rate": 5e10, "load": 0.5}
    facts = {"processor": "P", "cores": 2, "memory_gib": 24, "date": "d", "python": "3", "versions": {"torch": "2"}}
    raw = {"machine": facts | {"load": 0.1}, "plan": plan, "run": RUN, "counted": parts, "exact": 28}
    shown = page(raw)
    assert "| peak resident memory, GB | 1.80 | 2.00 | 0.90 | < 3.5 GB; 0.8 to 1.2 |" in shown
    assert "--resume-check" in shown
    resumed = {"killed": RUN | {"blocks": 2}, "resumed": RUN, "kept": True, "equal": False}
    assert "after 2 blocks" in page(raw | {"resume": resumed}) and "NOT those" in page(raw | {"resume": resumed})


def test_the_model_has_the_parameters_of_tinyllama():
    config = tinyllama_config()
    head = config.hidden_size // config.num_attention_heads
    attention = config.hidden_size * head * 2 * (config.num_attention_heads + config.num_key_value_heads)
    block = attention + 3 * config.hidden_size * config.intermediate_size + 2 * config.hidden_size
    assert 22 * block + 2 * 32000 * 2048 + 2048 == 1_100_048_384
