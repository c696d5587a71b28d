"""Mixtures of experts through the whole chain of steps."""

from pathlib import Path

import pytest
import torch
import yaml
from pipelines import computed, edit, pipeline_of
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GraniteMoeConfig, MixtralConfig, Qwen2MoeConfig

from pruning_core.calibration.collect import propagate
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.errors import InputError
from pruning_core.model.decoder import Decoder
from tasks.steps.hidden_states import replaced_weights
from tasks.store.artifact import Artifact

FIVE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
KINDS = {
    "mixtral": (MixtralConfig, {"num_local_experts": 5, "starved": True}),
    "qwen2": (Qwen2MoeConfig, FIVE | {"shared_expert_intermediate_size": 20, "mlp_only_layers": [0], "starved": True}),
    "granite": (GraniteMoeConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
}


@pytest.fixture
def mixture_root(workspace_root: Path, mixture_directory):
    """Makes the workspace's model a mixture of experts and its calibration long enough for most of them."""

    def build(kind: str) -> Path:
        config, settings = KINDS[kind]
        params = yaml.safe_load((workspace_root / "params.yaml").read_text())
        params["model"] = str(mixture_directory(config, **settings))
        params["calibration"] |= {"sequences": 40, "length": 32, "batch": 16}
        (workspace_root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        return workspace_root

    return build


def weight_of(name: str, stored: torch.Tensor) -> torch.Tensor:
    """A matrix of an expert out of a tensor that holds all experts, gate above up."""
    if stored.dim() == 2:
        return stored
    *_, expert, matrix = name.split(".")
    own = stored[int(expert)]
    return own if matrix == "down_proj" else own.chunk(2)[("gate_proj", "up_proj").index(matrix)]


def run_by_blocks(pipeline, model: Artifact, tokens: torch.Tensor) -> torch.Tensor:
    """Hidden states after the last block of the source with the variant's block artifacts in it."""
    decoder = Decoder(pipeline.source.path, AutoConfig.from_pretrained(pipeline.source.path))
    states = HiddenStates.at_entry(decoder, tokens, len(tokens))
    for index in range(len(decoder)):
        block = pipeline.context.store.find(model.manifest["inputs"][f"block-{index}"]["key"])
        decoder.load_block(index, replaced_weights(block))
        propagate(decoder, index, states)
        decoder.drop_block(index)
    return torch.cat(states.batches)


@pytest.mark.parametrize("variant", ["sparsegpt-50", "shared-2of4", "magnitude-50"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_mixture_loads_with_exact_zeros_and_runs_as_its_blocks_did(mixture_root, kind: str, variant: str):
    pipeline, _ = pipeline_of(mixture_root(kind))
    model = pipeline.model(variant)
    weights, masks = (load_file(model.path / f"{name}.safetensors") for name in ("model", "masks"))
    source = load_file(pipeline.source.path / "model.safetensors")
    assert {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in source.items()}
    sizes = [layer["rows"] * layer["columns"] for layer in model.facts["layers"]]
    assert masks.keys() == {layer["name"] for layer in model.facts["layers"]}
    assert model.facts["sparsity"]["prunable"] == 0.5
    changed = {layer["stored"] for layer in model.facts["layers"]}
    assert sum(weights[name].numel() for name in changed) == sum(sizes) == model.facts["parameters"]["prunable"]
    assert sum(int((weights[name] == 0).sum()) for name in changed) == sum(sizes) // 2
    assert all(torch.equal(weights[name], source[name]) for name in source.keys() - changed)
    for layer in model.facts["layers"]:
        bits = masks[layer["name"]][:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1
        removed = weight_of(layer["name"], weights[layer["stored"]])[bits.flatten(1)[:, : layer["columns"]] == 0]
        assert len(removed) == layer["removed"] and not removed.any()
    loaded = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32).eval()
    tokens = torch.randint(1, 50, (3, 16), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = loaded(tokens).logits
        last = loaded.model.norm(run_by_blocks(pipeline, model, tokens))
        logits = loaded.lm_head(last) / getattr(loaded.config, "logits_scaling", 1.0)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["sparsegpt-50", "shared-2of4"])
def test_the_ledger_lists_experts_with_too_few_tokens_and_the_rule_is_part_of_the_key(mixture_root, variant: str):
    root = mixture_root("mixtral")
    by_layer = pipeline_of(root)[0].model(variant)
    told = {entry["layer"] for entry in by_layer.facts["ledger"] if entry["event"] == "few_tokens"}
    names = ("gate_proj", "up_proj", "down_proj")
    assert told >= {f"model.layers.{block}.mlp.experts.0.{name}" for block in (0, 1) for name in names}
    edit(root, variant, "few_tokens", "magnitude")
    pipeline, seen = pipeline_of(root)
    by_magnitude = pipeline.model(variant)
    # The statistics of the dense model serve both rules.
    assert computed(seen) == [f"{variant} block 0", f"{variant} block 1", f"{variant} model"]
    assert {entry["rule"] for entry in by_magnitude.facts["ledger"] if "rule" in entry} == {"magnitude"}
    assert by_magnitude.facts["sparsity"]["prunable"] == 0.5
    zeros = [layer["zeros"] / (layer["rows"] * layer["columns"]) for layer in by_magnitude.facts["layers"]]
    assert set(zeros) == {0.5}


@pytest.mark.parametrize("variant", ["sparsegpt-50", "shared-2of4"])
def test_a_rule_for_experts_is_refused_where_there_are_none(workspace_root: Path, variant: str):
    edit(workspace_root, variant, "few_tokens", "layer")
    with pytest.raises(InputError, match="few_tokens changes nothing for a model without experts"):
        pipeline_of(workspace_root)[0].model(variant)
