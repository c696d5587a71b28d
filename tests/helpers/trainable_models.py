"""Small pruned models with text to recover on, and a run that is cut off."""

from pathlib import Path

import torch
from torch import Tensor

from pruning_core.model.decoder import matrix
from pruning_core.model.whole_model import WholeDecoder, load_whole
from pruning_core.numerics.selection import smallest
from pruning_core.recovery import RECOVERIES
from pruning_core.recovery.training.trainable_model import Recovered, TrainableModel

EVERY = {
    "sparse_finetune": {"name": "sparse_finetune"},
    "masked_lora": {"name": "masked_lora", "rank": 2},
    "lora": {"name": "lora", "rank": 2, "dropout": 0.3, "warmup": 0.0, "micro_batch": 2},
    "iterative_magnitude": {"name": "iterative_magnitude", "rounds": 2, "sparsity": 0.5},
    "block_reconstruction": {"name": "block_reconstruction"},
}
"""One small setting of every method."""
SHORT = {"steps": 6, "batch": 4, "learning_rate": 0.01, "validate_every": 2, "warmup": 0.0}

# With dropout, so that the random state counts.
LONGER = EVERY["lora"] | SHORT | {"steps": 60}


def windows_of(count: int, length: int = 12, seed: int = 1, vocabulary: int = 50) -> Tensor:
    """[count, length] token ids of which each depends on the one before it, so that there is something to learn."""
    draw = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, vocabulary, (count,), generator=draw)]
    for _ in range(length - 1):
        rows.append(3 + (rows[-1] * 7 + torch.randint(0, 2, (count,), generator=draw)) % (vocabulary - 3))
    return torch.stack(rows, dim=1)


def magnitude_masks(decoder: WholeDecoder, sparsity: float = 0.5) -> dict[str, Tensor]:
    """Mask every matrix by magnitude, row by row, and apply it."""
    masks = {}
    for index in range(len(decoder)):
        for name, module in decoder.linears(index).items():
            weight = matrix(module)
            keep = ~smallest(weight.abs(), int(weight.shape[1] * sparsity))
            with torch.no_grad():
                weight.masked_fill_(~keep, 0.0)
            masks[name] = keep
    return masks


def trainable_model(directory: Path, checkpoints: Path, *, masked: bool = True, **settings) -> TrainableModel:
    """The model in `directory`, pruned to half by magnitude, with the dense model as its teacher."""
    decoder = load_whole(directory)
    masks = magnitude_masks(decoder) if masked else {}
    given = {"teacher": load_whole(directory), "checkpoint_every": 2} | settings
    return TrainableModel(decoder, masks, windows_of(10), windows_of(4, seed=2), checkpoints, **given)


def fits(name: str) -> bool:
    """Whether a method works on masks that are there already."""
    return name not in ("lora", "iterative_magnitude")


def recover(directory: Path, checkpoints: Path, spec: dict, **settings) -> tuple[TrainableModel, Recovered]:
    """Run a method on a model that suits it."""
    subject = trainable_model(directory, checkpoints, masked=fits(spec["name"]), **settings)
    return subject, RECOVERIES.build(spec).recover(subject)


def weights(subject: TrainableModel) -> dict[str, Tensor]:
    """A copy of every parameter of the model."""
    return {name: value.detach().clone() for name, value in subject.decoder.model.named_parameters()}
