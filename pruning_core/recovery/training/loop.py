"""The training loop: deterministic, and resumed to the bit after being killed at any instant."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch

from pruning_core.errors import ComputationError
from pruning_core.progress import Progress, ignore_progress
from pruning_core.recovery.training.checkpoints import Checkpoints
from pruning_core.recovery.training.objective import Objective, State
from pruning_core.recovery.training.settings import Training

BETAS = (0.9, 0.999)


def train(
    objective: Objective, settings: Training, checkpoints: Checkpoints, progress: Progress = ignore_progress
) -> list[dict[str, Any]]:
    """Train from the newest checkpoint, or from the start, to the last step; the parameters are changed in place.

    The same settings, windows and parameters give the same bits, however often the process was killed on the way; only
    the number of threads that torch uses may change them.

    Returns:
        The loss curve: a point before the first step, every `validate_every` steps and after the last, each with step,
        train_loss (mean since the last point, None at the first), validation_loss and learning_rate.

    Raises:
        InputError: the checkpoints are of another run, or a warm-up as long as the run.
        ComputationError: a loss or a gradient that is no number; the last checkpoint stays.
    """
    total = settings.total(objective.windows)
    state = State(_optimizer(objective, settings))
    with seeded(settings.seed):
        if not checkpoints.restore(objective, state, total):
            _add_point(objective, settings, state, total, checkpoints)
        progress(state.step, total)
        while state.step < total:
            _advance(objective, settings, state, total, checkpoints)
            if state.step % settings.validate_every == 0 or state.step == total:
                _add_point(objective, settings, state, total, checkpoints)
            if state.step == total:
                _take_best(objective, state)
            if state.step % checkpoints.every == 0 or state.step == total:
                checkpoints.save(objective, state, total)
            progress(state.step, total)
    return state.curve


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's own generators start from `seed` inside the block; the caller's go on afterwards as if nothing was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _optimizer(objective: Objective, settings: Training) -> torch.optim.AdamW:
    matrices = [parameter for parameter in objective.parameters.values() if parameter.dim() > 1]
    vectors = [parameter for parameter in objective.parameters.values() if parameter.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled, lr=settings.learning_rate, betas=BETAS, fused=True)


def _advance(objective: Objective, settings: Training, state: State, total: int, checkpoints: Checkpoints) -> None:
    if objective.change_masks(state.step):
        objective.project(state.optimizer)
    for group in state.optimizer.param_groups:
        group["lr"] = objective.rate(settings, state.step, total)
    loss = 0.0
    batch = settings.rows(state.step, objective.windows)
    for rows in batch.split(objective.micro_batch):
        part = objective.loss(rows) * (len(rows) / len(batch))
        part.backward()
        loss += part.item()
    for parameter in objective.parameters.values():
        # An expert that no token of the batch reached: its moments decay as if its gradient were zero, which it is.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    objective.mask_gradients()
    gradients = [one.grad for one in objective.parameters.values() if one.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not math.isfinite(loss):
        # The state that this step began with is the one that has no loss.
        checkpoints.discard(state.step)
    for name, value in (("loss", loss), ("gradient's norm", norm.item())):
        if not math.isfinite(value):
            fault = f"the {name} of step {state.step + 1} is {value}"
            raise ComputationError(f"{fault}; lower learning_rate. {checkpoints.last_good()}")
    if settings.clip is not None:
        torch.nn.utils.clip_grads_with_norm_(objective.parameters.values(), settings.clip, norm)
    state.optimizer.step()
    state.optimizer.zero_grad()
    objective.project(state.optimizer)
    state.step += 1
    state.loss_sum += loss


def _add_point(objective: Objective, settings: Training, state: State, total: int, checkpoints: Checkpoints) -> None:
    since = state.step - state.curve[-1]["step"] if state.curve else 0
    try:
        held_out = objective.held_out()
    except ComputationError as error:
        raise ComputationError(f"validation after step {state.step}: {error}. {checkpoints.last_good()}") from error
    lowest = min((point["validation_loss"] for point in state.curve), default=math.inf)
    state.curve.append(
        {
            "step": state.step,
            "train_loss": state.loss_sum / since if since else None,
            "validation_loss": held_out,
            "learning_rate": objective.rate(settings, state.step - 1, total) if since else 0.0,
        }
    )
    state.loss_sum = 0.0
    if settings.keep == "best" and held_out < lowest:
        state.best = {name: parameter.detach().clone() for name, parameter in objective.parameters.items()}


@torch.no_grad()
def _take_best(objective: Objective, state: State) -> None:
    for name, value in state.best.items():
        objective.parameters[name].copy_(value)
    state.best = {}
