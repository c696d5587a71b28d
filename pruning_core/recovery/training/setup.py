"""Set-up of a training run: which parameters are trained, and its checkpoints."""

from dataclasses import asdict
from pathlib import Path

from torch import nn

from pruning_core.recovery.training.checkpoints import Checkpoints
from pruning_core.recovery.training.settings import Training
from pruning_core.recovery.training.trainable_model import TrainableModel


def trainable(model: TrainableModel, modules: dict[str, nn.Module] | None) -> dict[str, nn.Parameter]:
    """The weights of `modules`, or every parameter of the model, ready to be trained, by their names in the model."""
    parameters = dict(model.decoder.model.named_parameters())
    if modules is not None:
        parameters = {f"{name}.weight": module.get_parameter("weight") for name, module in modules.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    return parameters


def freeze(parameters: dict[str, nn.Parameter]) -> None:
    """No parameter takes a gradient any more."""
    for parameter in parameters.values():
        parameter.requires_grad_(False)
        parameter.grad = None


def checkpoints_of(model: TrainableModel, method: Training, folder: Path) -> Checkpoints:
    """The checkpoints of a run of `method` in `folder`."""
    identity = {"recovery": method.name, **asdict(method)}
    return Checkpoints(folder, identity, model.checkpoint_every, model.decoder.device)
