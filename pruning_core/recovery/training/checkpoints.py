"""Checkpoints of a training run: whole or absent, and never a pickle."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pruning_core.checkpoint.durable_files import flush_one
from pruning_core.checkpoint.safetensors_format import write_file
from pruning_core.errors import InputError

if TYPE_CHECKING:
    from pruning_core.recovery.training.objective import Objective, State

TENSORS, FACTS = "state.safetensors", "state.json"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoints:
    """The two newest states of one run, in a folder of its own: the newest may turn out to have no finite loss.

    A checkpoint is a folder `step-N` with the tensors (parameters, moments, random state) and the facts (step, curve).
    It is written under another name, brought to the disk and renamed; older ones go only then.

    Args:
        folder: made when it is needed.
        identity: JSON facts of the run; a checkpoint of another identity is refused.
        every: steps between two checkpoints.
        device: whose random state counts beside the CPU's.
    """

    folder: Path
    identity: dict[str, Any]
    every: int = 50
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def newest(self) -> Path | None:
        """The folder of the last whole checkpoint."""
        folders = self._all()
        return folders[-1] if folders else None

    def _all(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))

    def discard(self, step: int) -> None:
        """Remove the checkpoint after `step` steps, if there is one."""
        shutil.rmtree(self.folder / f"step-{step:08d}", ignore_errors=True)

    def last_good(self) -> str:
        """A sentence on what is left of a run that failed."""
        newest = self.newest()
        if newest is None:
            return "No step was checkpointed before it."
        return f"The state after step {newest.name.removeprefix('step-').lstrip('0') or 0} is kept in {newest}."

    def save(self, objective: "Objective", state: "State", total: int) -> None:
        """Write the state as the newest checkpoint; a finished run needs no moments any more."""
        tensors = {f"parameter.{name}": parameter.detach() for name, parameter in objective.parameters.items()}
        tensors |= {f"objective.{name}": value for name, value in objective.tensors().items()}
        if state.step < total:
            for name, parameter in objective.parameters.items():
                moments = state.optimizer.state[parameter]
                tensors |= {f"{key}.{name}": moments[key] for key in MOMENTS}
            tensors |= {f"best.{name}": value for name, value in state.best.items()}
            tensors |= self._random_state()
        facts = {"step": state.step, "total": total, "loss_sum": state.loss_sum, "curve": state.curve}
        self._write(state.step, tensors, facts | {"identity": self.identity})

    def restore(self, objective: "Objective", state: "State", total: int) -> bool:
        """Bring parameters, optimizer and torch's random state to the newest checkpoint; False where there is none.

        Raises:
            InputError: it is of another run.
        """
        newest = self.newest()
        if newest is None:
            return False
        facts = json.loads((newest / FACTS).read_text(encoding="utf-8"))
        if facts["identity"] != self.identity or facts["total"] != total:
            raise InputError(f"{newest} is of a run with other settings; remove it or use another folder")
        tensors = load_file(newest / TENSORS)
        _fill(objective, tensors)
        state.step, state.loss_sum, state.curve = facts["step"], facts["loss_sum"], facts["curve"]
        if state.step < total:
            for name, parameter in objective.parameters.items():
                moments = {key: tensors[f"{key}.{name}"] for key in MOMENTS}
                state.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in moments.items()}
            best = _part(tensors, "best.")
            state.best = {name: value.to(objective.parameters[name].device) for name, value in best.items()}
            self._set_random_state(tensors)
        return True

    def _random_state(self) -> dict[str, Tensor]:
        states = {"random.cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["random.device"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set_random_state(self, tensors: dict[str, Tensor]) -> None:
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random.device"], self.device)

    def _write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        partial, final = self.folder / "partial", self.folder / f"step-{step:08d}"
        # What a killed process left under this name is no checkpoint.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_file(partial / TENSORS, {name: value.cpu().contiguous() for name, value in tensors.items()})
        (partial / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        for path in (partial / TENSORS, partial / FACTS, partial):
            flush_one(path)
        partial.rename(final)
        flush_one(self.folder)
        for older in self._all()[:-2]:
            shutil.rmtree(older)


@torch.no_grad()
def _fill(objective: "Objective", tensors: dict[str, Tensor]) -> None:
    for name, parameter in objective.parameters.items():
        parameter.copy_(tensors[f"parameter.{name}"])
    objective.restore(_part(tensors, "objective."))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
