"""The core on a GPU against the core on the CPU; skipped where there is none."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.compress.block import compress_block
from pruning_core.model.decoder import Decoder
from pruning_core.numerics.selection import smallest
from pruning_core.settings.method import build_method

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SPECS = {
    "sparsegpt": {
        "saliency": {"name": "obs"},
        "pattern": {"name": "unstructured"},
        "sparsity": 0.5,
        "compensation": {"name": "sweep"},
    },
    "wanda": {"saliency": {"name": "wanda"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.5},
    "gptq": {"quantizer": {"name": "affine", "bits": 4}, "compensation": {"name": "sweep"}},
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_products_are_added_in_float32(dtype):
    inputs = torch.randn(4096, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = inputs.double().T @ inputs.double() / 4096
    found = LayerStatistics.from_inputs(inputs.cuda()).hessian().cpu().double()
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_selection_is_that_of_the_cpu():
    score = torch.randint(0, 9, (5, 400), generator=torch.Generator().manual_seed(0)).float()
    for count in (0, 1, 200, 399, 400):
        assert torch.equal(smallest(score.cuda(), count).cpu(), smallest(score, count))


@pytest.mark.parametrize("name", SPECS)
def test_a_block_comes_out_as_on_the_cpu(tiny_directory: Path, name):
    tokens = torch.randint(1, 50, (8, 16), generator=torch.Generator().manual_seed(2))
    kept = []
    for device in ("cpu", "cuda"):
        decoder = Decoder(tiny_directory, AutoConfig.from_pretrained(tiny_directory), device=device)
        states = HiddenStates.at_entry(decoder, tokens, 4)
        decoder.load_block(0)
        method = build_method(SPECS[name], device=torch.device(device))
        kept.append(compress_block(decoder, 0, states, method, "compressed"))
    for layer, weight in kept[0].weights.items():
        difference = (kept[1].weights[layer].float() - weight.float()).abs() > 1e-3
        assert difference.float().mean() < 0.01
