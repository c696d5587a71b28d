"""The resources that one variant takes: memory, disk, work and time put together."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import PretrainedConfig

from pruning_core.calibration.hidden_states import micro_batch
from pruning_core.errors import required
from pruning_core.model.skeleton import Skeleton
from pruning_core.plan.disk import Disk, disk_of, disk_of_recovered, disk_of_smaller, masks
from pruning_core.plan.flops import Work, work_of
from pruning_core.plan.machine_speed import START_SECONDS, Speed
from pruning_core.plan.memory import Memory, MemoryModel, evaluation
from pruning_core.plan.model_shape import ModelShape, model_shape
from pruning_core.plan.recovery_cost import recovery_cost
from pruning_core.plan.structured_cost import StructuredCost
from pruning_core.plan.structured_widths import narrowed_model
from pruning_core.settings.recipe import Recipe, Settings


@dataclass(frozen=True)
class ResourceEstimate:
    """What one variant takes."""

    variant: str
    model: ModelShape
    memory: dict[str, Memory]
    """By phase, in their order."""
    disk: Disk
    work: Work
    source_bytes: float
    device: str
    evaluation: Memory
    """Of evaluating the variant, which `compress` and `compare` do."""

    @property
    def ram(self) -> int:
        """Most resident bytes of all phases, without evaluation."""
        return max(memory.ram for memory in self.memory.values())

    @property
    def vram(self) -> int:
        """Most bytes on the device."""
        return max(memory.vram for memory in self.memory.values())

    def seconds(self, speed: Speed) -> dict[str, float]:
        """By kind of work; evaluation is not counted."""
        storing = speed.storing(self.source_bytes, self.disk.kept)
        return {"start": START_SECONDS} | speed.computing(self.work) | {"store": storing}

    def facts(self) -> dict[str, Any]:
        """As JSON; bytes and floating point operations."""
        return {
            "variant": self.variant,
            "parameters": self.model.parameters,
            "prunable": self.model.weights,
            "blocks": sum(block.count for block in self.model.blocks),
            "device": self.device,
            "ram": {name: memory.ram for name, memory in self.memory.items()} | {"peak": self.ram},
            "evaluation_ram": self.evaluation.ram,
            "vram": {name: memory.vram for name, memory in self.memory.items()} | {"peak": self.vram},
            "disk": asdict(self.disk) | {"total": self.disk.total, "kept": self.disk.kept},
            "flops": self.work.by_kind() | {"total": self.work.operations},
        }


class Planner:
    """Plans the variants of one params.yaml.

    Args:
        config: the model's configuration.
        settings: a checked params.yaml.
        stored: bytes per weight in the checkpoint; what the configuration says where absent.
        copies: of a finished variant, beside the one in the store.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        settings: Settings,
        *,
        stored: float | None = None,
        copies: int = 1,
    ) -> None:
        self.config = config
        self.settings = settings
        self.running = settings.compute.running()
        self.stored = stored or float(stored_bytes(config))
        self.copies = copies

    @cached_property
    def model(self) -> ModelShape:
        """Taken apart once for all variants."""
        calibration = self.settings.calibration
        batch = min(micro_batch(calibration.length, calibration.batch), calibration.sequences)
        trust = self.settings.trust_remote_code
        return model_shape(self.config, batch, calibration.length, self.running.torch_dtype, trust)

    def plan(self, recipe: Recipe) -> ResourceEstimate:
        """The plan of one variant.

        Raises:
            InputError: the model is none that can be compressed.
        """
        if recipe.structured is not None:
            estimate = self._structured(recipe)
        elif recipe.method is not None:
            estimate = self._compressed(recipe)
        else:
            source = disk_of_smaller(self.model.parameters, self.stored, self.copies)
            estimate = PartialEstimate(self.config, {}, source, Work())
        if recipe.recovery is not None:
            estimate = self._recovered(recipe, estimate)
        protocol = self.settings.evaluation
        return ResourceEstimate(
            recipe.name,
            self.model,
            estimate.memory,
            estimate.disk,
            estimate.work,
            self.stored * self.model.parameters,
            self.running.device,
            evaluation(self.model, self.running.device, protocol.batch, protocol.length),
        )

    def _compressed(self, recipe: Recipe) -> "PartialEstimate":
        sequences, states = self.settings.calibration.sequences, self.settings.compute.states
        width = self.running.torch_dtype.itemsize
        workers, shards = self.settings.compute.workers.number, self.settings.compute.shards
        memory = MemoryModel(
            self.model, recipe, sequences, self.stored, width, states, self.running.device, workers, shards
        )
        disk = disk_of(self.model, recipe, sequences, self.stored, width, states, self.copies)
        return PartialEstimate(self.config, memory.phases(), disk, work_of(self.model, recipe, sequences))

    def _structured(self, recipe: Recipe) -> "PartialEstimate":
        dtype, trust = self.running.torch_dtype, self.settings.trust_remote_code
        structured = required(recipe.structured, f"the structured pruning of {recipe.name}")
        narrowed = narrowed_model(self.config, structured, dtype, trust)
        after = Skeleton(narrowed.config, dtype, trust).parameters
        sequences = self.settings.calibration.sequences
        cost = StructuredCost(
            self.model, narrowed, structured, after, sequences, self.stored, dtype.itemsize, self.running.device
        )
        disk = disk_of_smaller(after, self.stored, self.copies)
        return PartialEstimate(narrowed.config, cost.phases(), disk, cost.work())

    def _recovered(self, recipe: Recipe, before: "PartialEstimate") -> "PartialEstimate":
        cost = recovery_cost(self.config, before.config, recipe, self.settings, self.stored)
        grown = masks(cost.model) if cost.grows and recipe.method is None else 0
        disk = disk_of_recovered(before.disk, bool(before.memory), grown, cost.checkpoints)
        return PartialEstimate(before.config, before.memory | cost.phases(), disk, before.work + cost.work())


@dataclass(frozen=True)
class PartialEstimate:
    """What a variant takes up to a point on its way, and the configuration of the model that it then is."""

    config: PretrainedConfig = field(repr=False)
    memory: dict[str, Memory]
    disk: Disk
    work: Work


def stored_bytes(config: PretrainedConfig) -> int:
    """Bytes per weight that the configuration promises; those of float32 where it does not say."""
    dtype = config.get_text_config().dtype or getattr(config, "dtype", None)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
    return dtype.itemsize if isinstance(dtype, torch.dtype) else 4
