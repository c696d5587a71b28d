"""Compression of blocks: staged propagation against the many-forward scheme, invariants, dtypes."""

from pathlib import Path

import pytest
import torch
from small_models import at_first_block
from transformers import GPT2Config, GPT2LMHeadModel

from pruning_core.calibration.collect import collect
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.compress.block import compress_block, compress_block_from
from pruning_core.compress.invariants import check_layer
from pruning_core.errors import ComputationError
from pruning_core.model.decoder import matrix, set_matrix
from pruning_core.patterns import PATTERNS
from pruning_core.settings.method import build_method

METHOD = build_method(
    {
        "saliency": {"name": "obs"},
        "pattern": {"name": "unstructured"},
        "sparsity": 0.5,
        "compensation": {"name": "sweep", "block": 8},
        "kernel": "torch",
    }
)


def one_forward_per_group(directory: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The published true-sequential scheme, literally: for each group run everything again, then prune it."""
    decoder, states = at_first_block(directory)
    linears = decoder.linears(0)
    order = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    for short in order:
        names = [name for name in linears if name.rpartition(".")[2] in short]
        inputs = []
        handle = linears[names[0]].register_forward_pre_hook(lambda module, args, kept=inputs: kept.append(args[0]))
        with torch.no_grad():
            for forward in states.forwards(decoder, 0):
                forward()
        handle.remove()
        known = LayerStatistics.from_inputs(torch.cat(inputs))
        for name in names:
            set_matrix(linears[name], METHOD.compress(matrix(linears[name]), METHOD.prepare(known)).weight)
    with torch.no_grad():
        outputs = torch.cat([forward() for forward in states.forwards(decoder, 0)])
    return {name: matrix(module).clone() for name, module in linears.items()}, outputs


def test_one_staged_forward_equals_a_forward_per_group(tiny_directory: Path):
    expected, outputs = one_forward_per_group(tiny_directory)
    decoder, states = at_first_block(tiny_directory)
    compress_block(decoder, 0, states, METHOD, "compressed")
    for name, module in decoder.linears(0).items():
        torch.testing.assert_close(matrix(module), expected[name], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.cat(states.batches), outputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("propagation", ["compressed", "blockwise"])
def test_the_states_left_behind_are_those_of_the_compressed_block(tiny_directory: Path, propagation: str):
    decoder, states = at_first_block(tiny_directory)
    entering = HiddenStates(list(states.batches), states.tokens)
    done = compress_block(decoder, 0, states, METHOD, propagation)
    decoder.drop_block(0)
    decoder.load_block(0, done.weights)
    with torch.no_grad():
        again = [forward() for forward in entering.forwards(decoder, 0)]
    assert all(torch.equal(left, right) for left, right in zip(states.batches, again, strict=True))


def test_stored_statistics_give_what_a_direct_pass_gives(tiny_directory: Path):
    decoder, states = at_first_block(tiny_directory)
    known = collect(decoder, 0, states, advance=False)
    direct = compress_block(decoder, 0, states, METHOD, "blockwise")
    decoder.drop_block(0)
    decoder.load_block(0)
    stored = compress_block_from(decoder, 0, known, METHOD)
    assert direct.weights.keys() == stored.weights.keys()
    assert all(torch.equal(direct.weights[name], stored.weights[name]) for name in direct.weights)


def test_every_matrix_of_a_block_is_pruned_in_the_layout_of_the_checkpoint(tmp_path: Path):
    GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    decoder, states = at_first_block(tmp_path)
    done = compress_block(decoder, 0, states, METHOD, "compressed")
    shapes = {name.removeprefix("transformer.h.0."): tuple(value.shape) for name, value in done.weights.items()}
    assert shapes == {
        "attn.c_attn.weight": (16, 48),
        "attn.c_proj.weight": (16, 16),
        "mlp.c_fc.weight": (16, 64),
        "mlp.c_proj.weight": (64, 16),
    }
    for layer in done.layers:
        assert layer.removed == layer.rows * layer.columns // 2
        stored = done.weights[f"{layer.name}.weight"].T
        assert not stored[~done.keep[layer.name]].any()


def test_weights_are_rounded_once_to_the_dtype_that_is_saved(tiny_llama, tmp_path: Path):
    tiny_llama().to(torch.bfloat16).save_pretrained(tmp_path)
    decoder, states = at_first_block(tmp_path)
    done = compress_block(decoder, 0, states, METHOD, "compressed")
    for name, stored in done.weights.items():
        assert stored.dtype == torch.bfloat16
        running = matrix(decoder.linears(0)[name.removesuffix(".weight")])
        assert torch.equal(stored.float(), running)


def test_nan_in_the_hidden_states_names_the_block(tiny_directory: Path):
    decoder, states = at_first_block(tiny_directory)
    states.batches[1][0, 3, 2] = float("nan")
    with pytest.raises(ComputationError, match=r"NaN or inf"):
        compress_block(decoder, 0, states, METHOD, "compressed")


@pytest.mark.parametrize(
    ("weight", "keep", "sentence"),
    [
        ([[1.0, 0.0, 2.0, 0.0]], [[True, False, False, True]], "1 removed weights are not zero"),
        ([[1.0, 0.0, 0.0, 0.0]], [[True, False, False, False]], "3 weights were removed where the budget is 2"),
        ([[float("inf"), 0.0, 2.0, 0.0]], [[True, False, True, False]], "NaN or inf"),
    ],
)
def test_a_broken_invariant_fails_with_the_layer_and_the_count(weight, keep, sentence):
    pattern = PATTERNS.build({"name": "unstructured"})
    with pytest.raises(ComputationError, match=f"layer.*{sentence}"):
        check_layer("layer", torch.tensor(weight), torch.tensor(keep), pattern, 0.5)


def test_a_broken_n_of_m_group_fails():
    pattern = PATTERNS.build({"name": "n_of_m", "n": 1, "m": 2})
    with pytest.raises(ComputationError, match="2 groups break 1:2"):
        check_layer("layer", torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[True, True, False, False]]), pattern, None)
