"""Peak memory of a run, phase by phase."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pruning_core.checkpoint.shard_files import SHARD_BYTES
from pruning_core.evaluation.forward import CHUNK_NUMBERS, LOGITS_BYTES
from pruning_core.plan.disk import FLOAT, MAPPED, codes, masks, moments
from pruning_core.plan.flops import pooled_tokens
from pruning_core.plan.model_shape import Block, Group, ModelShape
from pruning_core.settings.recipe import Recipe, parse_recipe

BASE = {"cpu": 600_000_000, "cuda": 2_000_000_000}
"""A process that imported everything and computed nothing yet, math library and compiled kernels included."""
CONTEXT = 600_000_000
"""What CUDA takes on the device for itself."""
GAPS = 300_000_000
"""Freed memory between tensors that the C library keeps, at most: tensors of up to 32 MiB leave it behind."""
STATISTICS = parse_recipe(
    "statistics",
    {"saliency": {"name": "obs"}, "pattern": {"name": "unstructured"}, "sparsity": 0.5, "propagate": "dense"},
)
"""Stands for the collection of dense statistics, which is the same whoever asks for them."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the worst moment of a phase."""

    ram: int
    """Resident in the process."""
    vram: int = 0
    """On the device."""


@dataclass(frozen=True)
class MemoryModel:
    """What is in memory while one variant is made.

    Args:
        model: its shape, of a full micro-batch.
        recipe: the variant.
        sequences: of calibration.
        stored: bytes per weight in the checkpoint.
        dtype: bytes per value while blocks run.
        states: memory or mapped.
        device: cpu or cuda.
        workers: of a search, in this process.
        shards: of the calibration windows, summed one after another.
    """

    model: ModelShape
    recipe: Recipe
    sequences: int
    stored: float
    dtype: int
    states: str
    device: str
    workers: int = 1
    shards: int = 1

    def phases(self) -> dict[str, Memory]:
        """The worst moment of each phase, without evaluation."""
        blocks = self.model.blocks
        phases = {"allocation": self._whole()} if "model" in self.recipe.allocation_needs else {}
        phases |= {"enter": self._enter()} if self.recipe.reads_calibration_text else {}
        if "statistics" in self.recipe.allocation_needs:
            dense = replace(self, recipe=STATISTICS)
            phases["dense statistics"] = _worst(dense._forward(block) for block in blocks)
        if self.recipe.calibrates:
            phases["forward and statistics"] = _worst(self._forward(block) for block in blocks)
        if self.recipe.matrix_method.statistics == "full":
            phases["factor"] = _worst(self._factor(block, at) for block in blocks for at in range(len(block.groups)))
        phases["sweep"] = _worst(self._column_sweep(block, at) for block in blocks for at in range(len(block.groups)))
        phases["assemble"] = self._assemble()
        return phases

    @property
    def _batches(self) -> int:
        return -(-self.sequences // self.model.batch)

    @property
    def _batch_states(self) -> int:
        return self.model.batch * self.model.length * self.model.width * self.dtype

    @property
    def _held_states(self) -> int:
        if not self.recipe.calibrates or self._stored_statistics:
            return 0
        # Pages of a mapped file are given back after every micro-batch.
        return self._batch_states * (1 if self.states == MAPPED else self._batches)

    @property
    def _stored_statistics(self) -> bool:
        return self.recipe.calibrates and self.recipe.propagate == "dense"

    @property
    def _in_stages(self) -> bool:
        return self.recipe.calibrates and self.recipe.propagate == "compressed"

    def _enter(self) -> Memory:
        """The embeddings, all states, and the first block with one micro-batch, which shows how blocks are called."""
        first = self.model.blocks[0]
        peak = max(segment.peak for segment in first.segments)
        states = self._batch_states * (1 if self.states == MAPPED else self._batches)
        on_device = self.dtype * (self.model.outside + first.parameters) + states + peak
        return placed(self.device, on_device, self._read())

    def _whole(self) -> Memory:
        """The whole model and what one sequence leaves behind for its gradient, where a trace is estimated also the
        signs and the shifted weights; for a search a model per worker."""
        parts = self.recipe.allocation_parts
        names = {(part.sensitivity_spec or {}).get("name") for part in parts}
        copies = self.workers if any("search" in part.needs for part in parts) else 1
        logits = 3 * FLOAT * self.model.length * self.model.vocabulary
        one = sum(block.count * block.total("moved") for block in self.model.blocks) / self.model.batch
        estimated = (1 + self.dtype) * self.model.weights if "hutchinson" in names else 0
        gradient = one + FLOAT * self.model.largest + estimated if names - {None, "leave_one_out"} else 0
        model = self.dtype * self.model.parameters
        return placed(self.device, max(model + gradient + logits, copies * (model + logits)), self._read())

    def _forward(self, block: Block) -> Memory:
        worst = 0
        previous = 0
        full = self.recipe.matrix_method.statistics == "full" or self._stored_statistics
        groups = block.groups
        # The sum of the shards before beside that of the present one.
        sums = 2 if self.shards > 1 else 1
        whole = sums * sum(self._moment(group, full) for group in groups)
        for at, segment in enumerate(block.segments):
            waiting = (self._batches - 1) * max(previous, segment.live) if self._in_stages else 0
            statistics = sums * self._moment(groups[at], full) if at < len(groups) else 0
            # Statistics are float32 whatever the forward is.
            copied = self._batch_states // self.dtype * FLOAT if self.dtype != FLOAT else 0
            worst = max(worst, waiting + segment.peak + (statistics if self._in_stages else whole) + copied)
            previous = segment.live
        states = self._batch_states * (1 if self.states == MAPPED else self._batches)
        return placed(self.device, self.dtype * block.parameters + states + worst, self._outcome(block, len(groups)))

    def _factor(self, block: Block, at: int) -> Memory:
        """The Hessian, and the two matrices of its size that its factor is made of, beside its sum."""
        columns = block.groups[at].columns
        ordered = getattr(self.recipe.matrix_method.quantizer, "order", "natural") != "natural"
        matrices = (4 if ordered else 3) * FLOAT * columns**2
        return placed(self.device, self._waiting(block, at) + matrices, self._outcome(block, at))

    def _column_sweep(self, block: Block, at: int) -> Memory:
        """The matrix in float32, what it becomes, its mask and scores, and the factor."""
        group = block.groups[at]
        factor = FLOAT * group.columns**2 if self.recipe.matrix_method.statistics == "full" else 0
        each = _bytes_per_weight(self.recipe) + (0 if self.dtype == FLOAT else FLOAT)
        return placed(
            self.device, self._waiting(block, at) + factor + each * group.largest, self._outcome(block, at + 1)
        )

    def _waiting(self, block: Block, at: int) -> float:
        """The block, what the paused micro-batches hold, the states behind them, and the statistics not yet used."""
        full = self.recipe.matrix_method.statistics == "full"
        held = self.dtype * block.parameters + self._held_states
        if self._in_stages:
            return held + self._batches * block.segments[at].live + self._moment(block.groups[at], full)
        if self._stored_statistics:
            return held + moments(block)
        return held + sum(self._moment(group, full) for group in block.groups)

    def _moment(self, group: Group, full: bool) -> int:
        if not self.recipe.calibrates:
            return 0
        each = FLOAT * group.columns ** (2 if full else 1)
        batch = self.model.batch * self.model.length
        pooled = group.experts > 1 and (self.recipe.matrix_method.few_tokens == "layer" or self._stored_statistics)
        if not pooled or not pooled_tokens(group, batch, self.sequences * self.model.length):
            return group.experts * each
        return (group.experts + 1 if group.alike else 2 * group.experts) * each

    def _outcome(self, block: Block, count: int) -> float:
        """Compressed matrices of the first `count` groups in the checkpoint's dtype, masks of a byte each, codes."""
        coded = 1 if self.recipe.matrix_method.quantizer else 0
        return sum(group.weights for group in block.groups[:count]) * (self.stored + 1 + coded)

    def _read(self) -> float:
        """A tensor of the checkpoint on its way into memory: a page of the file, and a copy."""
        return 2 * self.stored * self.model.largest

    def _assemble(self) -> Memory:
        """One shard, the block whose matrices go into it, and the masks of the whole model."""
        block = max(block.weights for block in self.model.blocks)
        shard = max(min(SHARD_BYTES, self.model.parameters * self.stored), self.model.largest * self.stored)
        extra = masks(self.model) + codes(self.model, self.recipe)
        return Memory(int(BASE[self.device] + GAPS + shard + block * self.stored + extra + self._read()))


def _bytes_per_weight(recipe: Recipe) -> int:
    """Of the matrix that is being compressed, beside its weights in the block."""
    method = recipe.matrix_method
    blockwise = getattr(method.pattern, "scope", None) == "block" or getattr(method.pattern, "name", "") == "n_of_m"
    # Start, result, removed, kept; where the whole matrix competes also scores, and what selects among them.
    each = 10 if method.compensates and (blockwise or method.pattern is None) else 22
    if method.quantizer is None:
        return each
    return each + (2 if method.compensates else 16)


def evaluation(model: ModelShape, device: str, batch: int, length: int) -> Memory:
    """Two whole models in float32 on the CPU and their logits; what `compress` and `compare` do at the end."""
    row = 2 * FLOAT * length * model.vocabulary
    logits = max(row, min(batch * row, LOGITS_BYTES))
    chunks = 3 * FLOAT * CHUNK_NUMBERS
    return Memory(BASE[device] + 2 * FLOAT * model.parameters + logits + chunks)


def placed(device: str, on_device: float, on_host: float = 0) -> Memory:
    """A moment with these bytes beside what a process is made of; on the CPU all of them are in its memory."""
    gaps = min(GAPS, on_device // 4)
    if device == "cpu":
        return Memory(int(BASE["cpu"] + gaps + on_device + on_host))
    return Memory(int(BASE["cuda"] + on_host), int(CONTEXT + gaps + on_device))


def _worst(moments: Iterable[Memory]) -> Memory:
    every = list(moments)
    return Memory(max(one.ram for one in every), max(one.vram for one in every))
