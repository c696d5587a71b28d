"""Estimate what a run needs, and refuse one that cannot fit before anything is loaded."""

from pathlib import Path
from typing import Any

import psutil
import torch

from flows.plan.advice import advice
from pruning_core.checkpoint.checkpoint import INDEX_FILE, SINGLE_FILE, Checkpoint
from pruning_core.checkpoint.hub_snapshot import is_hub_id, snapshot
from pruning_core.checkpoint.model_files import read_config
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.plan.estimate import Planner, ResourceEstimate
from pruning_core.plan.machine_speed import measured_speed
from pruning_core.plan.preview import previewed
from pruning_core.settings.recipe import BASELINE
from tasks.machine import free_resources
from tasks.versioning import is_repository
from tasks.workspace.workspace import Workspace

GB = 1e9
SMALL = 1_500_000_000
"""Bytes of memory below which no run is refused: most of them are the libraries', whatever the model."""


def plan_variant(name: str, overrides: list[str] | None, rate: float | None = None) -> dict[str, Any]:
    """Memory, disk, work and time of one variant, and whether they fit.

    Args:
        rate: floating point operations per second of matrix products; measured where absent.

    Raises:
        InputError: anything in params.yaml is wrong, or the model cannot be compressed.
    """
    if rate is not None and not rate > 0:
        raise InputError(f"--rate is a number of floating point operations per second, got {rate:g}; give e.g. 5e10")
    workspace = Workspace.open(None, overrides)
    recipe = workspace.settings.recipe(name)
    planner = _planner(workspace)
    plan = planner.plan(recipe)
    running = planner.running
    speed = measured_speed(running.torch_device, running.torch_dtype, rate)
    seconds = plan.seconds(speed)
    return plan.facts() | {
        "seconds": seconds | {"total": sum(seconds.values())},
        "rate": speed.operations,
        "load": psutil.getloadavg()[0],
        "available": _available(workspace, plan),
        "refused": _memory_shortfall(workspace, plan) or _disk_shortfall(workspace, [plan]),
        "not_evaluated": _evaluation_shortfall(plan),
    }


def check_room(workspace: Workspace, names: list[str], evaluates: bool) -> None:
    """Refuse a run that cannot fit, from the configuration alone.

    Args:
        names: variants.
        evaluates: whether the run also evaluates them.

    Raises:
        InputError: the run needs more memory or disk than there is.
    """
    planner = _planner(workspace)
    plans = [planner.plan(workspace.settings.recipe(name)) for name in names]
    faults = [_memory_shortfall(workspace, plan) for plan in plans]
    if evaluates:
        faults += [_evaluation_shortfall(plan) for plan in plans]
        faults.append(_side_by_side_shortfall(workspace, plans))
    fault = next((fault for fault in faults if fault), None) or _disk_shortfall(workspace, plans)
    if fault:
        raise InputError(fault)


def _planner(workspace: Workspace) -> Planner:
    settings = workspace.settings
    directory = model_directory(workspace)
    config = read_config(directory, trust_remote_code=settings.trust_remote_code)
    copies = 2 if is_repository(workspace.root) else 1
    return Planner(config, settings, stored=_bytes_per_weight(directory), copies=copies)


def model_directory(workspace: Workspace) -> Path:
    """The model's directory; the configuration is enough, weights need not be there."""
    settings = workspace.settings
    local = workspace.root / Path(settings.model).expanduser()
    if local.is_dir():
        return local
    if not is_hub_id(settings.model):
        raise InputError(
            f"the model directory {str(local)!r} does not exist; point `model:` to a directory with a config.json"
        )
    return snapshot(settings.model, with_code=settings.trust_remote_code)[0]


def _bytes_per_weight(directory: Path) -> float | None:
    """Mean bytes of a weight in the files, by their headers; None where there are no files."""
    if not any((directory / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        return None
    checkpoint = Checkpoint(directory)
    names = checkpoint.names()
    return sum(checkpoint.bytes(name) for name in names) / sum(torch.Size(checkpoint.shape(n)).numel() for n in names)


def _available(workspace: Workspace, plan: ResourceEstimate) -> dict[str, int]:
    free = {"ram": free_resources.free_memory(), "disk": free_resources.free_disk(workspace.hidden)}
    return free | ({"vram": free_resources.free_device_memory()} if plan.device == "cuda" else {})


def _memory_shortfall(workspace: Workspace, plan: ResourceEstimate) -> str | None:
    """One sentence on what is missing and what would help; None where it fits."""
    free = free_resources.free_memory()
    if plan.ram > max(free, SMALL):
        phase = max(plan.memory, key=lambda name: plan.memory[name].ram)
        return f"{_needs(plan, plan.ram, phase, 'memory', free)}; {advice(workspace.settings, plan, phase)}"
    if plan.device == "cuda" and plan.vram > free_resources.free_device_memory():
        phase = max(plan.memory, key=lambda name: plan.memory[name].vram)
        missing = _needs(plan, plan.vram, phase, "device memory", free_resources.free_device_memory())
        return f"{missing}; {advice(workspace.settings, plan, phase)}, or set compute.device to cpu"
    return None


def _evaluation_shortfall(plan: ResourceEstimate) -> str | None:
    free = free_resources.free_memory()
    if plan.evaluation.ram <= max(free, SMALL):
        return None
    return (
        f"{_needs(plan, plan.evaluation.ram, 'evaluation', 'memory', free)}; evaluation loads the dense and the "
        "compressed model whole: compress with `espalier step prune`, which does not evaluate"
    )


def _side_by_side_shortfall(workspace: Workspace, plans: list[ResourceEstimate]) -> str | None:
    """As `_memory_shortfall`, of variants that are compressed in parallel on this machine."""
    workers = workspace.settings.compute.variants
    if workers is None or workers.address is not None:
        return None
    needs = sorted((max(plan.ram, plan.evaluation.ram) for plan in plans), reverse=True)[: workers.number]
    free = free_resources.free_memory()
    if len(needs) == 1 or sum(needs) <= max(free, len(needs) * SMALL):
        return None
    return (
        f"{len(needs)} variants side by side need {_gb(sum(needs))} of memory, and {_gb(free)} are there; set "
        "compute.variants.count lower, or leave compute.variants out"
    )


def _disk_shortfall(workspace: Workspace, plans: list[ResourceEstimate]) -> str | None:
    # Statistics of the dense model are shared, and states and checkpoints go when a variant is done.
    need = sum(plan.disk.kept - plan.disk.statistics for plan in plans)
    need += max(plan.disk.statistics for plan in plans) + max(plan.disk.passing for plan in plans)
    need -= _stored_bytes(workspace)
    free = free_resources.free_disk(workspace.hidden)
    if need <= free:
        return None
    names = plans[0].variant if len(plans) == 1 else f"these {len(plans)} variants"
    return (
        f"{names}: {_gb(need)} are to be written and {_gb(free)} are free on the disk of {workspace.hidden}; "
        "free some, or move the workspace to a larger disk"
    )


def _needs(plan: ResourceEstimate, need: int, phase: str, what: str, free: int) -> str:
    return f"{plan.variant} needs {_gb(need)} of {what} ({phase}), and {_gb(free)} are there"


def _stored_bytes(workspace: Workspace) -> int:
    """Bytes already in the store, perhaps of this variant: a resumed run must not be refused."""
    objects = workspace.hidden / "objects"
    return sum(file.stat().st_size for file in objects.glob("*/*") if file.is_file())


def _gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 1e6:.1f} MB"


def require_expressible(variant: str, format: dict[str, Any], overrides: list[str] | None) -> None:
    """Check that an export format can express a variant, before anything is computed.

    Args:
        format: {name, options}.

    Raises:
        InputError: the format cannot express what the recipe makes of the model.
    """
    workspace = Workspace.open(None, overrides)
    recipe = None if variant == BASELINE else workspace.settings.recipe(variant)
    trust = workspace.settings.trust_remote_code
    FORMATS.build(format, "format").foresee(previewed(model_directory(workspace), recipe, trust_remote_code=trust))
