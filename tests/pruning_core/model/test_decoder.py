"""The block-by-block forward against the model's own, for the architectures that must work."""

from pathlib import Path

import pytest
import torch
import transformers
from architectures import CONFIGS, KIN, REAL
from transformers import AutoConfig, AutoModelForCausalLM

from pruning_core.calibration.collect import groups_of, propagate
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.errors import InputError
from pruning_core.model.decoder import Decoder, matrix

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


def assert_same_states(directory: Path, tokens: torch.Tensor) -> None:
    """The states entering each block, and the last block's output, are the model's own."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    entering = []
    decoder = Decoder(directory, AutoConfig.from_pretrained(directory))
    blocks = model.get_submodule(decoder.block_prefix)
    for block in blocks:
        block.register_forward_pre_hook(lambda module, args: entering.append(args[0]))
    blocks[-1].register_forward_hook(lambda module, args, out: entering.append(out[0] if type(out) is tuple else out))
    with torch.no_grad():
        model(tokens)
    states = HiddenStates.at_entry(decoder, tokens, 4)
    for index in range(len(decoder)):
        torch.testing.assert_close(torch.cat(states.batches), entering[index], rtol=0, atol=2e-5)
        decoder.load_block(index)
        propagate(decoder, index, states)
        decoder.drop_block(index)
    torch.testing.assert_close(torch.cat(states.batches), entering[-1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", REAL)
def test_real_models_run_block_by_block_as_they_do_whole(shared: Path, name: str):
    draw = torch.Generator().manual_seed(0)
    assert_same_states(shared / "models" / name, torch.randint(3, 60, (6, 24), generator=draw))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_random_models_run_block_by_block_as_they_do_whole(config, tmp_path: Path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).eval().save_pretrained(tmp_path)
    assert_same_states(tmp_path, torch.randint(2, 50, (6, 20), generator=torch.Generator().manual_seed(1)))


def test_layers_that_read_one_tensor_share_a_group(shared: Path):
    directory = shared / "models" / "stories260K-llama"
    decoder = Decoder(directory, AutoConfig.from_pretrained(directory))
    states = HiddenStates.at_entry(decoder, torch.ones(2, 8, dtype=torch.int64), 2)
    decoder.load_block(0)
    found = [[name.rpartition(".")[2] for name in group.names] for group in groups_of(decoder, 0, states)]
    assert found == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


def test_a_transposed_weight_is_seen_as_out_by_in(shared: Path):
    directory = shared / "models" / "shakespeare-char-818K-gpt2"
    decoder = Decoder(directory, AutoConfig.from_pretrained(directory))
    decoder.load_block(0)
    shapes = {name.rpartition(".")[2]: tuple(matrix(module).shape) for name, module in decoder.linears(0).items()}
    assert shapes["c_attn"] == (384, 128) and shapes["c_fc"] == (512, 128)


def test_only_the_loaded_block_is_in_memory(shared: Path):
    directory = shared / "models" / "stories260K-llama"
    decoder = Decoder(directory, AutoConfig.from_pretrained(directory))
    decoder.load_block(1)
    assert not next(decoder.blocks[1].parameters()).is_meta
    assert all(next(decoder.blocks[index].parameters()).is_meta for index in (0, 2, 3, 4))
    decoder.drop_block(1)
    assert next(decoder.blocks[1].parameters()).is_meta


def test_a_config_that_is_not_the_weights_is_refused(tiny_directory: Path):
    config = AutoConfig.from_pretrained(tiny_directory, num_hidden_layers=3)
    with pytest.raises(InputError, match=r"lacks 9 tensors of its config.json, the first 'model.layers.2"):
        Decoder(tiny_directory, config)


@pytest.mark.parametrize("config", [transformers.GptOssConfig, transformers.Llama4TextConfig])
def test_experts_of_another_kind_are_refused_and_not_half_compressed(config, tmp_path: Path):
    small = config(**KIN, head_dim=8, num_local_experts=4, num_experts_per_tok=2, rope_parameters=PLAIN)
    AutoModelForCausalLM.from_config(small).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="not made of a gate, an up and a down matrix without biases"):
        Decoder(tmp_path, AutoConfig.from_pretrained(tmp_path))


def test_embeddings_are_in_memory_only_while_they_are_needed(tiny_directory: Path):
    decoder = Decoder(tiny_directory, AutoConfig.from_pretrained(tiny_directory))
    embedding = decoder.model.get_input_embeddings
    tokens = torch.arange(32).reshape(4, 8)
    assert embedding().weight.is_meta
    states = HiddenStates.at_entry(decoder, tokens, 2)
    assert not embedding().weight.is_meta
    entered = torch.cat(states.batches)
    decoder.load_block(0)
    propagate(decoder, 0, states)
    assert embedding().weight.is_meta
    assert torch.equal(torch.cat(HiddenStates.at_entry(decoder, tokens, 2).batches), entered)
