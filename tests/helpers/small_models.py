"""Small models in folders, and the inputs of a sensitivity made from them."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from pruning_core.calibration.collect import collect
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.compress.shares import matrices_of
from pruning_core.model.decoder import Decoder
from pruning_core.model.whole_model import load_whole
from pruning_core.sensitivity import SensitivityInputs
from pruning_core.settings.method import build_method

WANDA = {"saliency": {"name": "wanda"}, "pattern": {"name": "unstructured", "scope": "row"}, "sparsity": 0.5}
MAGNITUDE = WANDA | {"saliency": {"name": "magnitude"}, "pattern": {"name": "unstructured", "scope": "matrix"}}


def saved(config: PretrainedConfig, directory: Path) -> Path:
    """`directory` with a random model in it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).eval().save_pretrained(directory)
    return directory


def reference(directory: Path, attention: str | None = None) -> nn.Module:
    """transformers' own model."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation=attention)
    return model.eval()


def windows_of(count: int, length: int = 12, seed: int = 1) -> Tensor:
    """[count, length] token ids of a vocabulary of 50."""
    return torch.randint(3, 50, (count, length), generator=torch.Generator().manual_seed(seed))


def at_first_block(directory: Path) -> tuple[Decoder, HiddenStates]:
    """A decoder with its first block loaded, and what six windows of 16 tokens are on entering it."""
    decoder = Decoder(directory, AutoConfig.from_pretrained(directory))
    tokens = torch.randint(1, 50, (6, 16), generator=torch.Generator().manual_seed(2))
    states = HiddenStates.at_entry(decoder, tokens, 4)
    decoder.load_block(0)
    return decoder, states


def sensitivity_inputs(
    directory: Path, windows: Tensor, method: dict | None = None, dtype=torch.float32
) -> SensitivityInputs:
    """Everything that any sensitivity asks for, from a model directory."""
    decoder = load_whole(directory, dtype=dtype)
    method = build_method(WANDA if method is None else method)
    return SensitivityInputs(matrices_of(decoder), decoder, windows, statistics_of(decoder, windows), method)


def statistics_of(decoder: Decoder, windows: Tensor):
    """Those of the dense model on all windows."""
    states = HiddenStates.at_entry(decoder, windows, len(windows))
    statistics = [collect(decoder, index, states) for index in range(len(decoder))]
    return lambda index: statistics[index]


def transformers_weight(model: nn.Module, name: str, of=lambda parameter: parameter) -> Tensor:
    """The part of transformers' own model that is matrix `name`, experts being fused there.

    of: what to take of a parameter: itself, or its gradient.
    """
    parameters = dict(model.named_parameters())
    if f"{name}.weight" in parameters:
        return of(parameters[f"{name}.weight"])
    layer, expert, matrix = name.rsplit(".", 2)
    if matrix == "down_proj":
        return of(parameters[f"{layer}.down_proj"])[int(expert)]
    return of(parameters[f"{layer}.gate_up_proj"])[int(expert)].chunk(2)[("gate_proj", "up_proj").index(matrix)]
