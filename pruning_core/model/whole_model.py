"""A causal LM with every weight in memory, for what looks at all blocks at once: gradients, losses, searches.

The modules are those of `Decoder`: matrices have the same names, and experts run unfused.
"""

from pathlib import Path

import torch
from transformers import PretrainedConfig

from pruning_core.checkpoint.model_files import read_config
from pruning_core.errors import InputError
from pruning_core.model.decoder import Decoder


class WholeDecoder(Decoder):
    """A decoder that is loaded as a whole and stays so; `model` runs from token ids to logits.

    Args, Raises: as `Decoder`. No parameter requires a gradient.
    """

    def __init__(
        self,
        directory: Path,
        config: PretrainedConfig,
        trust_remote_code: bool = False,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(directory, config, trust_remote_code, device=device, dtype=dtype)
        self._load_outside()
        for index in range(len(self)):
            self.load_block(index)
        # The head of most models shares the embedding's tensor, which has a new one since it was loaded.
        self.model.tie_weights()
        for name, parameter in list(self.model.named_parameters()):
            if parameter.is_meta:
                self._set_parameter(name, self._placed(self.checkpoint.load(self._stored_name_or_refuse(name))))
        self.model.requires_grad_(False)

    def drop_outside(self) -> None:
        """Keep what runs outside the blocks: the model is to stay whole."""

    def _stored_name_or_refuse(self, parameter: str) -> str:
        if parameter not in self._stored:
            raise InputError(
                f"{self.checkpoint.directory} lacks the tensor {parameter!r} of its config.json; "
                "use the files and config of one model"
            )
        return self.stored_name(parameter)


def load_whole(
    directory: Path | str,
    trust_remote_code: bool = False,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> WholeDecoder:
    """The model of a directory with every weight in memory, in evaluation mode.

    Args:
        directory: Hugging Face model directory with safetensors.
        trust_remote_code: run Python that comes with the model.
        device: where it runs.
        dtype: of weights and activations.

    Raises:
        InputError: the directory is no such model, or lacks a tensor that the model needs.
    """
    directory = Path(directory)
    config = read_config(directory, trust_remote_code=trust_remote_code)
    return WholeDecoder(directory, config, trust_remote_code, device=device, dtype=dtype)
