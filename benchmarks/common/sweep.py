"""python -m benchmarks.common.sweep: times the column sweep alone, kernel against kernel, on one square matrix.

On a CPU numba against torch, on a GPU triton against torch; the statistics and the factor are made before the clock
starts. In every round each kernel does each setting once, and ratios are taken within a round.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.common.command import run_command
from benchmarks.common.machine import machine
from benchmarks.common.summary import Spread
from pruning_core.column_sweep import Choice, ColumnSweepResult, column_sweep
from pruning_core.column_sweep.grids import Grids
from pruning_core.column_sweep.kernels import kernel_for
from pruning_core.compress.factor import factorize
from pruning_core.errors import InputError
from pruning_core.patterns import PATTERNS
from pruning_core.quantizers import QUANTIZERS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
BLOCK = 128
READABLE = "torch"


@dataclass(frozen=True)
class Setting:
    """What a sweep does with a matrix: parts of a recipe as in params.yaml."""

    name: str
    pattern: dict[str, Any] | None = None
    sparsity: float | None = None
    quantizer: dict[str, Any] | None = None

    def choice(self) -> Choice:
        """Where the mask comes from."""
        return PATTERNS.build(self.pattern, "pattern").column_sweep_choice(self.sparsity) if self.pattern else Choice()

    def grids(self, weight: Tensor) -> Grids | None:
        """Fresh grids, which one sweep fills."""
        return Grids(QUANTIZERS.build(self.quantizer, "quantizer"), weight) if self.quantizer else None


SETTINGS = (
    Setting("SparseGPT 50 %", {"name": "unstructured"}, 0.5),
    Setting("SparseGPT 2:4", {"name": "n_of_m", "n": 2, "m": 4}),
    Setting("GPTQ int4", quantizer={"name": "affine", "bits": 4, "group_size": 128}),
)


@dataclass(frozen=True)
class Problem:
    """One layer, ready for its sweep."""

    weight: Tensor
    """[size, size] float32."""
    upper: Tensor
    """[size, size] float32, the inverse factor of the damped Hessian."""

    @classmethod
    def random(cls, size: int, device: torch.device) -> "Problem":
        """Gaussian weights; inputs that are correlated and have a few loud channels, as real ones have."""
        draw = torch.Generator().manual_seed(0)
        mixing = torch.randn(size, size, generator=draw) / size**0.5
        inputs = torch.randn(2 * size, size, generator=draw) @ mixing
        inputs[:, :: max(size // 8, 1)] *= 8
        weight = torch.randn(size, size, generator=draw)
        upper = factorize(inputs.T @ inputs / len(inputs), 0.01).upper
        return cls(weight.to(device), upper.to(device))

    def sweep(self, setting: Setting, kernel: str) -> tuple[ColumnSweepResult, float]:
        """The result, and the seconds until it was there."""
        column_kernel, grids = kernel_for(kernel, self.weight.device), setting.grids(self.weight)
        scale, choice = self.upper.diagonal().square().reciprocal(), setting.choice()
        began = self._now()
        done = column_sweep(self.weight, self.upper, scale, choice, BLOCK, column_kernel, grids)
        return done, self._now() - began

    def _now(self) -> float:
        if self.weight.is_cuda:
            torch.cuda.synchronize(self.weight.device)
        return time.perf_counter()


def measure(size: int, repeats: int, device: torch.device, say: Callable[[str], None]) -> dict[str, Any]:
    """All figures as JSON: seconds by setting, kernel and round, and their medians, spreads and ratios.

    Every sweep is done once before, so that no kernel is compiled on the clock; the losses of that round are kept,
    since kernels that disagree cannot be compared.
    """
    kernels = ("numba" if device.type == "cpu" else "triton", READABLE)
    problem = Problem.random(size, device)
    losses = {s.name: {kernel: problem.sweep(s, kernel)[0].loss for kernel in kernels} for s in SETTINGS}
    seconds: dict[str, dict[str, list[float]]] = {s.name: {kernel: [] for kernel in kernels} for s in SETTINGS}
    for turn in range(repeats):
        for setting in SETTINGS:
            for kernel in kernels if turn % 2 else kernels[::-1]:
                seconds[setting.name][kernel].append(problem.sweep(setting, kernel)[1])
        say(f"round {turn + 1} of {repeats}")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "machine": machine(torch.get_num_threads()) | {"gpu": gpu},
        "size": size,
        "block": BLOCK,
        "repeats": repeats,
        "kernels": list(kernels),
        "losses": losses,
        "seconds": seconds,
        "spread": {name: {k: asdict(Spread.of(v)) for k, v in timed.items()} for name, timed in seconds.items()},
        "ratio": {name: asdict(_ratio(timed, kernels)) for name, timed in seconds.items()},
    }


def _ratio(seconds: dict[str, list[float]], kernels: tuple[str, str]) -> Spread:
    """The readable kernel's time over the fast one's, round by round."""
    fast, readable = (seconds[kernel] for kernel in kernels)
    return Spread.of(slow / quick for slow, quick in zip(readable, fast, strict=True))


def table(raw: dict[str, Any]) -> str:
    """The figures as lines of text: medians, with the lowest and the highest in brackets."""
    fast, readable = raw["kernels"]
    place = raw["machine"]["gpu"] or f"{raw['machine']['processor']}, {raw['machine']['threads']} threads"
    lines = [f"{raw['size']} x {raw['size']}, blocks of {raw['block']}, {raw['repeats']} rounds, {place}", ""]
    lines.append(f"{'':16} {fast + ' ms':>24} {readable + ' ms':>24} {readable + ' / ' + fast:>24}")
    for name, spread in raw["spread"].items():
        cells = [_cell(spread[kernel], 1e3) for kernel in (fast, readable)] + [_cell(raw["ratio"][name], 1)]
        lines.append(f"{name:16} " + " ".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def _cell(spread: dict[str, float], unit: float) -> str:
    median, low, high = (spread[key] * unit for key in ("median", "low", "high"))
    return f"{median:.1f} [{low:.1f}, {high:.1f}]"


@app.command(epilog="Example: python -m benchmarks.common.sweep --repeats 9 --json sweep.json")
def main(
    size: Annotated[int, typer.Option(min=1, help="Rows and columns.")] = 2048,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds.")] = 5,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="On a CPU; default: as torch chooses.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="The raw figures go there too.")] = None,
) -> None:
    """Measure and print."""
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"device must be auto, cpu, or cuda where torch sees a GPU, got {device!r}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads:
        torch.set_num_threads(threads)
    raw = measure(size, repeats, torch.device(device), lambda line: typer.echo(line, err=True))
    typer.echo(table(raw))
    if out:
        out.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_command(app)
