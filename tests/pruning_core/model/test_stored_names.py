"""Where parameters lie in a checkpoint whose names or shapes are not those of the running model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPTNeoXConfig, GraniteMoeConfig, MixtralConfig
from transformers.core_model_loading import Chunk, WeightConverter

from pruning_core.compress.block import compress_block_from, ungrouped
from pruning_core.errors import InputError
from pruning_core.model import stored_names
from pruning_core.model.decoder import Decoder, matrix
from pruning_core.settings.method import build_method

HALF = build_method({"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5})
FOUR = {"num_local_experts": 4}


def decoder_of(directory: Path) -> Decoder:
    """Its block 1 is loaded."""
    decoder = Decoder(directory, AutoConfig.from_pretrained(directory))
    decoder.load_block(1)
    return decoder


def test_a_parameter_that_transformers_renames_is_found(tmp_path: Path):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GPTNeoXConfig(vocab_size=50, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    decoder = decoder_of(tmp_path)
    assert decoder.stored_name("lm_head.weight") == "embed_out.weight"
    assert decoder.stored_name("gpt_neox.layers.1.mlp.dense_h_to_4h.weight") in load_file(
        tmp_path / "model.safetensors"
    )


def test_a_checkpoint_saved_without_its_head_is_found_under_its_shorter_names(tiny_llama, tmp_path: Path):
    tiny_llama(tie_word_embeddings=True).model.save_pretrained(tmp_path)
    assert decoder_of(tmp_path).stored_name("model.layers.1.mlp.up_proj.weight") == "layers.1.mlp.up_proj.weight"


def test_the_matrices_of_experts_are_those_that_the_file_names(mixture_directory):
    directory = mixture_directory(MixtralConfig, **FOUR)
    decoder, stored = decoder_of(directory), load_file(directory / "model.safetensors")
    for name, module in decoder.linears(1).items():
        assert torch.equal(matrix(module), stored[decoder.stored_name(f"{name}.weight")])
    names = [decoder.stored_name(f"model.layers.1.mlp.experts.3.{name}_proj.weight") for name in ("gate", "up", "down")]
    assert names == [f"model.layers.1.block_sparse_moe.experts.3.{name}.weight" for name in ("w1", "w3", "w2")]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(MixtralConfig, {"fused": True}), (GraniteMoeConfig, {"num_experts_per_tok": 2}), (MixtralConfig, {})],
    ids=["mixtral saved fused", "granite", "mixtral"],
)
def test_compressed_experts_are_written_as_the_file_has_them(mixture_directory, kind, settings):
    directory = mixture_directory(kind, **FOUR, **settings)
    decoder, stored = decoder_of(directory), load_file(directory / "model.safetensors")
    done = compress_block_from(decoder, 1, ungrouped(decoder, 1), HALF)
    assert {name: value.shape for name, value in done.weights.items()} == {
        name: stored[name].shape for name in done.weights
    }
    assert all(int(value.count_nonzero()) == value.numel() // 2 for value in done.weights.values())
    assert all(bool(((value == stored[name]) | (value == 0)).all()) for name, value in done.weights.items())
    compressed = {name: matrix(module).clone() for name, module in decoder.linears(1).items()}
    decoder.drop_block(1)
    decoder.load_block(1, done.weights)
    assert len(compressed) == 16
    assert all(torch.equal(matrix(module), compressed[name]) for name, module in decoder.linears(1).items())


def test_a_missing_expert_is_told(mixture_directory):
    directory = mixture_directory(MixtralConfig, **FOUR)
    config = AutoConfig.from_pretrained(directory, num_local_experts=6)
    with pytest.raises(InputError, match=r"lacks 12 tensors of its config.json, the first .*experts\.4\.down_proj"):
        Decoder(directory, config)


def test_a_conversion_that_cannot_be_undone_is_refused(tiny_directory: Path, monkeypatch):
    source = {"source_patterns": "mlp.gate_up.weight", "operations": [Chunk(dim=0)]}
    converter = WeightConverter(target_patterns=["mlp.gate_proj.weight", "mlp.up_proj.weight"], **source)
    monkeypatch.setattr(stored_names, "get_model_conversion_mapping", lambda model: [converter])
    tensors = load_file(tiny_directory / "model.safetensors")
    for layer in ("model.layers.0.mlp", "model.layers.1.mlp"):
        parts = [tensors.pop(f"{layer}.{name}_proj.weight") for name in ("gate", "up")]
        tensors[f"{layer}.gate_up.weight"] = torch.cat(parts)
    save_file(tensors, tiny_directory / "model.safetensors")
    with pytest.raises(InputError, match=r"gate_up.weight' otherwise than the model runs it \(Chunk\)"):
        decoder_of(tiny_directory)
