"""The model with every weight in memory against transformers' own, whole and from any block on."""

from pathlib import Path

import pytest
import torch
from architectures import CONFIGS, REAL
from safetensors.torch import load_file, save_file
from small_models import reference, saved

from pruning_core.calibration.collect import propagate
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.calibration.resumed_forward import ResumedForward
from pruning_core.errors import InputError
from pruning_core.model.whole_model import load_whole


def some_tokens() -> torch.Tensor:
    return torch.randint(3, 50, (3, 20), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same_logits(directory: Path) -> None:
    """From token ids, and from the states that enter each block."""
    tokens = some_tokens()
    expected = reference(directory)(tokens).logits
    decoder = load_whole(directory)
    torch.testing.assert_close(decoder.model(input_ids=tokens).logits, expected, rtol=0, atol=1e-6)
    resumed, states = ResumedForward(decoder), HiddenStates.at_entry(decoder, tokens, 3)
    for index in range(len(decoder)):
        found = resumed.logits(tokens, index, states.batches[0])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
        propagate(decoder, index, states)
    assert not any("forward" in vars(block) for block in decoder.blocks)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_random_models_give_the_logits_of_transformers(config, tmp_path: Path):
    assert_same_logits(saved(config, tmp_path))


@pytest.mark.parametrize("name", REAL)
def test_real_models_give_the_logits_of_transformers(shared: Path, name: str):
    assert_same_logits(shared / "models" / name)


def test_a_skipped_block_has_no_say(tiny_directory: Path):
    decoder, tokens = load_whole(tiny_directory), some_tokens()
    states = HiddenStates.at_entry(decoder, tokens, 3)
    propagate(decoder, 0, states)
    before = ResumedForward(decoder).logits(tokens, 1, states.batches[0])
    decoder.linears(0)["model.layers.0.mlp.down_proj"].weight.fill_(100.0)
    assert torch.equal(ResumedForward(decoder).logits(tokens, 1, states.batches[0]), before)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_the_embedding_and_another_is_its_own(tiny_llama, tmp_path: Path, tied: bool):
    tiny_llama(tie_word_embeddings=tied).save_pretrained(tmp_path)
    model = load_whole(tmp_path).model
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embedding) == tied
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in model.parameters())


def test_the_model_stays_whole_and_has_the_dtype_asked_for(tiny_directory: Path):
    decoder = load_whole(tiny_directory, dtype=torch.bfloat16)
    decoder.drop_outside()
    assert {parameter.dtype for parameter in decoder.model.parameters()} == {torch.bfloat16}
    assert not any(parameter.is_meta for parameter in decoder.model.parameters())


def test_a_head_that_is_missing_is_named(tiny_llama, tmp_path: Path):
    tiny_llama(tie_word_embeddings=False).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks the tensor 'lm_head.weight' of its config.json"):
        load_whole(tmp_path)
