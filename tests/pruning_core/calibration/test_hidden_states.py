"""Hidden states in memory and in a mapped file, and forwards that end where nobody needs the rest."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from pruning_core.calibration.collect import collect, propagate
from pruning_core.calibration.hidden_states import HiddenStates, micro_batch
from pruning_core.compress.block import compress_block
from pruning_core.errors import ComputationError
from pruning_core.model.decoder import Decoder
from pruning_core.settings.method import build_method

WINDOWS = torch.randint(1, 50, (7, 16), generator=torch.Generator().manual_seed(2))
SPARSEGPT = build_method(
    {
        "saliency": {"name": "obs"},
        "pattern": {"name": "unstructured"},
        "sparsity": 0.5,
        "compensation": {"name": "sweep", "block": 8},
    }
)


def decoder_of(directory: Path, **options) -> Decoder:
    return Decoder(directory, AutoConfig.from_pretrained(directory), **options)


@pytest.mark.parametrize(
    ("length", "given", "sequences"), [(256, None, 8), (2048, None, 1), (4096, None, 1), (300, None, 6), (256, 3, 3)]
)
def test_a_micro_batch_is_what_was_asked_for_or_about_two_thousand_tokens(length, given, sequences):
    assert micro_batch(length, given) == sequences


@pytest.mark.parametrize("propagation", ["compressed", "blockwise"])
def test_a_mapped_file_changes_no_bit(tiny_directory: Path, tmp_path: Path, propagation):
    results = []
    for folder in (None, tmp_path / "states"):
        decoder = decoder_of(tiny_directory)
        states = HiddenStates.at_entry(decoder, WINDOWS, 3, folder)
        assert [len(batch) for batch in states.batches] == [3, 3, 1]
        for index in range(len(decoder)):
            decoder.load_block(index)
            outcome = compress_block(decoder, index, states, SPARSEGPT, propagation)
            results.append((outcome.weights, torch.cat(states.batches).clone()))
    half = len(results) // 2
    assert half == 2
    for (weights, after), (mapped_weights, mapped_after) in zip(results[:half], results[half:], strict=True):
        assert all(torch.equal(weights[name], mapped_weights[name]) for name in weights)
        assert torch.equal(after, mapped_after)


def test_mapped_states_lie_in_the_folder_and_leave_nothing_behind(tiny_directory: Path, tmp_path: Path):
    states = HiddenStates.at_entry(decoder_of(tiny_directory), WINDOWS, 4, tmp_path / "states")
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("the mapped files of a process can be looked up on Linux only")
    assert str(tmp_path / "states") in maps.read_text()
    assert not list((tmp_path / "states").iterdir())
    del states
    assert str(tmp_path / "states") not in maps.read_text()


def test_states_that_were_saved_go_on_where_they_were(tiny_directory: Path, tmp_path: Path):
    decoder = decoder_of(tiny_directory)
    decoder.load_block(0)
    direct = HiddenStates.at_entry(decoder, WINDOWS, 4)
    again = HiddenStates.of(iter(direct.batches), WINDOWS, 4, tmp_path)
    propagate(decoder, 0, direct)
    propagate(decoder, 0, again)
    assert torch.equal(torch.cat(direct.batches), torch.cat(again.batches))


def test_statistics_do_not_need_the_end_of_the_forward(tiny_directory: Path):
    decoder = decoder_of(tiny_directory)
    decoder.load_block(0)
    states = HiddenStates.at_entry(decoder, WINDOWS, 3)
    before = torch.cat(states.batches).clone()
    short = collect(decoder, 0, states, advance=False)
    assert torch.equal(torch.cat(states.batches), before)
    whole = collect(decoder, 0, states)
    assert not torch.equal(torch.cat(states.batches), before)
    for (group, known), (same, expected) in zip(short, whole, strict=True):
        assert group == same and torch.equal(known.hessian(), expected.hessian())


@pytest.mark.parametrize("propagation", ["compressed", "blockwise"])
def test_the_last_block_is_the_same_when_its_output_is_not_made(tiny_directory: Path, propagation):
    weights = []
    for advance in (True, False):
        decoder = decoder_of(tiny_directory)
        states = HiddenStates.at_entry(decoder, WINDOWS, 3)
        decoder.load_block(1)
        ran = []
        decoder.blocks[1].mlp.down_proj.register_forward_hook(
            lambda module, args, output, ran=ran: ran.append(output.shape[1])
        )
        weights.append(compress_block(decoder, 1, states, SPARSEGPT, propagation, advance=advance).weights)
        # A look at the order of the layers takes two tokens; the calibration windows have sixteen.
        assert (16 in ran) is advance
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_block_that_puts_out_nan_is_named(tiny_directory: Path):
    decoder = decoder_of(tiny_directory)
    decoder.load_block(1)
    states = HiddenStates.at_entry(decoder, WINDOWS, 3)
    states.batches[1][0, 0, 0] = float("inf")
    with pytest.raises(ComputationError, match="block 1 puts out NaN or inf"):
        propagate(decoder, 1, states)


def test_a_model_can_run_in_half_precision_with_statistics_in_float32(tiny_directory: Path):
    exact, half = decoder_of(tiny_directory), decoder_of(tiny_directory, dtype=torch.bfloat16)
    found = []
    for decoder in (exact, half):
        decoder.load_block(0)
        states = HiddenStates.at_entry(decoder, WINDOWS, 3)
        assert states.batches[0].dtype == decoder.dtype
        outcome = compress_block(decoder, 0, HiddenStates(list(states.batches), states.tokens), SPARSEGPT, "compressed")
        decoder.load_block(0)
        propagate(decoder, 0, states)
        found.append((states.batches[0].float(), outcome))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0.05, atol=0.05)
    for name, tensor in found[0][1].weights.items():
        assert found[1][1].weights[name].dtype == tensor.dtype
    agreement = [(found[0][1].keep[name] == found[1][1].keep[name]).float().mean() for name in found[0][1].keep]
    assert min(agreement) > 0.9
