"""The training loop of the shipped model: deterministic, and resumed to the bit after being killed."""

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from corpus import Batches
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from pruning_core.errors import ComputationError, InputError
from pruning_core.evaluation.perplexity import perplexity

KEPT_EVERY = 1000


@dataclass(frozen=True)
class Settings:
    """Everything that decides the trained weights, besides the text and the library versions."""

    seed: int = 0
    steps: int = 7200
    rows: int = 4
    context: int = 512
    vocabulary: int = 2048
    hidden: int = 192
    blocks: int = 6
    heads: int = 6
    kv_heads: int = 3
    mlp: int = 512
    peak_lr: float = 3e-3
    warmup: int = 200
    decay_fraction: float = 0.25
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    validation_every: int = 250
    validation_windows: int = 48

    @property
    def decay_start(self) -> int:
        """First step of the decay: runs of different length are identical up to the shorter one's."""
        return self.steps - round(self.steps * self.decay_fraction)

    def lr(self, step: int) -> float:
        """Learning rate of `step`: linear warm-up, constant, then 1 - sqrt to about 0 (arXiv:2405.18392)."""
        if step < self.warmup:
            return self.peak_lr * (step + 1) / self.warmup
        if step < self.decay_start:
            return self.peak_lr
        return self.peak_lr * (1 - math.sqrt((step - self.decay_start + 1) / (self.steps - self.decay_start + 1)))

    def architecture(self) -> LlamaConfig:
        """The model's configuration; token 0 ends a text."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.mlp,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )


@dataclass
class State:
    """A training run at a step boundary: `step` steps are done."""

    model: LlamaForCausalLM
    optimizer: torch.optim.AdamW
    step: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


def fresh(settings: Settings) -> State:
    """The state before the first step: weights drawn with the seed; the caller's generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = LlamaForCausalLM(settings.architecture())
    model.config.use_cache = False
    model.eval()  # there is no dropout, so training and evaluation are the same function
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (settings.beta1, settings.beta2)
    return State(model, torch.optim.AdamW(groups, lr=settings.peak_lr, betas=betas, fused=True))


def train(
    settings: Settings,
    batches: Batches,
    validation: Tensor,
    directory: Path,
    report: Callable[[State, float], None],
) -> State:
    """Train from the newest checkpoint under `directory`, or from the start, to `settings.steps`.

    Args:
        validation: [windows, length] int64; its mean loss enters the curve at every checkpoint.
        report: called as report(state, training loss in nats per token) after every step.

    Raises:
        InputError: the checkpoints are of a run with other settings.
        ComputationError: the loss is not a number.
    """
    state = fresh(settings)
    saved = checkpoints(directory)
    if saved:
        restore(state, saved[-1], settings)
    total, since = 0.0, state.step
    while state.step < settings.steps:
        loss = advance(state, settings, batches)
        total += loss
        report(state, loss)
        if state.step % settings.validation_every == 0 or state.step == settings.steps:
            held_out = perplexity(state.model, validation, settings.rows).mean_loss
            point = {
                "step": state.step,
                "train_loss": total / (state.step - since),
                "validation_loss": held_out,
            }
            state.curve.append(point)
            save(state, directory, settings)
            total, since = 0.0, state.step
    return state


def advance(state: State, settings: Settings, batches: Batches) -> float:
    """One optimizer step; returns the batch's mean loss before it, in nats per token."""
    inputs, targets = batches.at(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = settings.lr(state.step)
    logits = state.model(input_ids=inputs).logits
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    if not torch.isfinite(loss):
        raise ComputationError(f"the loss of step {state.step} is {loss.item()}; use a lower --peak-lr")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), settings.clip)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    return loss.item()


def checkpoints(directory: Path) -> list[Path]:
    """Complete checkpoints under `directory`, oldest first."""
    return sorted(path for path in directory.glob("step-*") if (path / "checkpoint.json").is_file())


def save(state: State, directory: Path, settings: Settings) -> None:
    """Write checkpoint `step-NNNNNN`; only whole ones ever carry that name. Old ones are thinned out."""
    tensors = {name: value.detach() for name, value in state.model.named_parameters()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value
    target = directory / f"step-{state.step:06d}"
    partial = directory / f"partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / "state.safetensors")
    facts = {"step": state.step, "settings": asdict(settings), "curve": state.curve}
    (partial / "checkpoint.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in checkpoints(directory)[:-2]:
        if int(old.name.removeprefix("step-")) % KEPT_EVERY:
            shutil.rmtree(old)


def restore(state: State, checkpoint: Path, settings: Settings) -> None:
    """Bring `state` to the checkpoint, the optimizer's moments included.

    The number of steps may differ from the checkpoint's as long as neither run has begun to decay: the
    learning rate was the same up to there.

    Raises:
        InputError: another setting differs.
    """
    facts = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    then = Settings(**facts["settings"])
    shared = facts["step"] <= min(then.decay_start, settings.decay_start)
    comparable = Settings(**{**facts["settings"], "steps": settings.steps}) if shared else then
    if comparable != settings:
        raise InputError(f"{checkpoint} was trained with other settings ({then}); use an empty --directory")
    with safe_open(checkpoint / "state.safetensors", framework="pt") as file, torch.no_grad():
        for name, parameter in state.model.named_parameters():
            parameter.copy_(file.get_tensor(name))
            prefixes = {key: f"optimizer.{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq")}
            state.optimizer.state[parameter] = {key: file.get_tensor(full) for key, full in prefixes.items()}
    state.step, state.curve = facts["step"], facts["curve"]
