"""Cost of structured pruning: scores of its groups, the refit of what reads the survivors, and surgery."""

from dataclasses import dataclass, field
from functools import cached_property

from pruning_core.checkpoint.shard_files import SHARD_BYTES
from pruning_core.errors import required
from pruning_core.evaluation.forward import CHUNK_NUMBERS
from pruning_core.plan.disk import FLOAT
from pruning_core.plan.flops import Work, forward
from pruning_core.plan.forward_trace import Segment
from pruning_core.plan.memory import GAPS, Memory, placed
from pruning_core.plan.model_shape import Block, ModelShape
from pruning_core.plan.structured_widths import Consumer, NarrowedModel
from pruning_core.plan.training_trace import gradients_of
from pruning_core.settings.structured import Structured
from pruning_core.structured.importance.hybrid import Hybrid
from pruning_core.structured.least_squares import ITERATIONS
from pruning_core.structured.reconstruction import Reconstruction

DOUBLE = 8
COUPLED = 8
"""Tokens that the check of the groups runs on, and how often it changes each of three groups: twice."""


@dataclass(frozen=True)
class StructuredCost:
    """The cost of one structured variant.

    Args:
        model: shape of the model before, of a full micro-batch.
        narrowed: what becomes of it.
        after: parameters of what becomes of it.
        sequences: of calibration.
        stored: bytes per weight in the checkpoint.
        dtype: bytes per value while the model runs.
        device: cpu or cuda.
    """

    model: ModelShape
    narrowed: NarrowedModel = field(repr=False)
    structured: Structured = field(repr=False)
    after: int
    sequences: int
    stored: float
    dtype: int
    device: str

    def phases(self) -> dict[str, Memory]:
        """The worst moment of each step's phases."""
        phases = {"importance": self._importance()}
        if self.structured.reconstruction is not None:
            phases["least squares"] = self._least_squares()
        return phases | {"surgery": self._surgery()}

    def work(self) -> Work:
        """Scores and refits; surgery computes nothing."""
        work = self._coupling() + self._scoring()
        if self.structured.reconstruction is not None:
            work += self._refitting(self.structured.reconstruction)
        return work

    @cached_property
    def _gradient(self) -> Segment:
        """Of two windows."""
        return gradients_of(self.narrowed.skeleton, self.narrowed.sites, self.model.length)

    @property
    def _whole(self) -> bool:
        return "whole" in self.structured.importance.needs

    @property
    def _tokens(self) -> int:
        return self.model.batch * self.model.length

    @property
    def _largest(self) -> int:
        return max(consumer.largest for consumer in self.narrowed.consumers)

    def _importance(self) -> Memory:
        block = max(block.parameters for block in self.model.blocks)
        # Groups that were found by names are checked on a copy of each block.
        coupling = self.dtype * (2 * block + (0 if self._whole else self.model.outside))
        # Weights and squares, or what they are multiplied with, are float64 while they are scored.
        scoring = 3 * DOUBLE * self._largest
        if self._whole:
            probed = self._windows * self.model.length * self.model.width * self.dtype * 2 + self._logits
            model = self.dtype * self.model.parameters
            return self._placed(model + max(coupling, self._gradient.peak, scoring, probed))
        running = 0
        if "tokens" in self.structured.importance.needs:
            inputs = 3 * DOUBLE * self._tokens * max(consumer.columns for consumer in self.narrowed.consumers)
            running = max(_peak(one) for one in self.model.blocks) + self._states + inputs
        return self._placed(max(coupling, self.dtype * block + max(scoring, running)))

    @property
    def _windows(self) -> int:
        """That a fusion of estimates is measured on."""
        tokens = getattr(self.structured.importance, "probe_tokens", None)
        return min(self.sequences, max(1, tokens // self.model.length)) if tokens and self._probes else 0

    @property
    def _probes(self) -> bool:
        return "probes" in getattr(self.structured.importance, "fusion", "")

    @property
    def _logits(self) -> int:
        """Of a micro-batch, and a piece of them in float32."""
        piece = 3 * FLOAT * min(CHUNK_NUMBERS, self.model.length * self.model.vocabulary)
        return self.dtype * self._tokens * self.model.vocabulary + piece if self._probes else 0

    @property
    def _states(self) -> int:
        return self.sequences * self.model.length * self.model.width * self.dtype

    def _least_squares(self) -> Memory:
        """A block and its pruned copy, the states of all windows, moments of two parts, and what solving takes."""
        reconstruction = required(self.structured.reconstruction, "the reconstruction")
        streams = 2 if reconstruction.form == "absorbing" else 1
        block = max(block.parameters for block in self.model.blocks)
        peak = max(_peak(one) for one in self.model.blocks)
        worst = max(self._solving(consumer, reconstruction, peak) for consumer in self.narrowed.consumers)
        model = self.dtype * (self.model.outside + 2 * block)
        return self._placed(model + streams * self._states + worst, self._refitted)

    def _solving(self, consumer: Consumer, reconstruction: Reconstruction, peak: int) -> float:
        rows, columns, kept = consumer.rows, consumer.columns, consumer.kept
        moments = columns**2 + columns * kept + kept**2
        read = self._tokens * (columns + kept)
        collected = max(peak, (self.dtype + DOUBLE) * read + DOUBLE * moments)
        ridges = 0 if reconstruction.form == "bias" else len(reconstruction.ridges)
        system = columns * kept + 5 * kept**2 if ridges else columns * kept + kept**2
        matrices = 3 * rows * columns + (4 + ridges) * rows * kept
        return 2 * DOUBLE * moments + max(collected, DOUBLE * (system + matrices))

    @property
    def _refitted(self) -> int:
        """Bytes of what surgery is to write in the place of slices."""
        if self.structured.reconstruction is None:
            return 0
        return sum(self.dtype * consumer.rows * consumer.kept for consumer in self.narrowed.consumers)

    def _surgery(self) -> Memory:
        """One shard, a tensor on its way, refitted matrices, and what a refit left loaded."""
        shard = max(min(SHARD_BYTES, self.after * self.stored), self.model.largest * self.stored)
        loaded = self.dtype * self.model.outside if self.structured.reconstruction is not None else 0
        read = 2 * self.stored * self.model.largest
        return self._placed(loaded if self.device == "cuda" else 0, GAPS + shard + read + self._refitted + loaded)

    def _placed(self, on_device: float, on_host: float = 0) -> Memory:
        return placed(self.device, on_device, on_host + 2 * self.stored * self.model.largest)

    def _coupling(self) -> Work:
        groups = {(one.block, one.mlp): len({0, one.groups // 2, one.groups - 1}) for one in self.narrowed.consumers}
        runs = sum(1 + 2 * changed for changed in groups.values()) / self._depth
        return self._through * (runs * COUPLED / self._tokens)

    @property
    def _depth(self) -> int:
        return sum(block.count for block in self.model.blocks)

    @cached_property
    def _through(self) -> Work:
        """A micro-batch through all blocks."""
        return sum((forward(block, None) * block.count for block in self.model.blocks), Work())

    def _scoring(self) -> Work:
        importance, batches = self.structured.importance, self.sequences / self.model.batch
        if self._whole:
            windows = min(getattr(importance, "samples", None) or self.sequences, self.sequences)
            two = Work(self._gradient.products, self._gradient.attention, moved=self._gradient.moved)
            return two * (windows / 2) + self._probing()
        if "tokens" not in importance.needs:
            return Work()
        if importance.name == "fluctuation":
            return self._through * batches
        return sum((self._collected(block) for block in self.model.blocks), Work()) * batches

    def _collected(self, block: Block) -> Work:
        # The last block's output is nobody's input.
        final = 1 if block.last else 0
        short = forward(block, len(block.groups)) * final
        squares = Work(statistics=2 * self._tokens * sum(group.columns for group in block.groups) * block.count)
        return forward(block, None) * (block.count - final) + short + squares

    def _probing(self) -> Work:
        """Every set of groups from its block to the logits; the model as it is, and the way from block to block."""
        importance, depth = self.structured.importance, self._depth
        if not self._probes or not isinstance(importance, Hybrid):
            return Work()
        single, last = importance.evidence == "single", depth - 1
        measured = [one for one in self.narrowed.consumers if one.block % importance.every == 0 or one.block == last]
        sets = [(one.block, min(importance.probes, one.groups) if single else 2) for one in measured]
        blocks = 2 + sum(count * (depth - block) / depth for block, count in sets)
        heads = 1 + sum(count for _, count in sets)
        head = Work(products=2 * self._tokens * self.model.width * self.model.vocabulary)
        return (self._through * blocks + head * heads) * (self._windows / self.model.batch)

    def _refitting(self, reconstruction: Reconstruction) -> Work:
        streams = 2 if reconstruction.form == "absorbing" else 1
        each = len(self.narrowed.consumers) / self._depth
        # Every consumer is looked at in a forward of its own, and all blocks but the last hand on.
        passed = each + (self._depth - 1) / self._depth
        forwards = self._through * (streams * passed * self.sequences / self.model.batch)
        tokens = self.sequences * self.model.length
        return forwards + sum((_solved(one, reconstruction, tokens) for one in self.narrowed.consumers), Work())


def _solved(consumer: Consumer, reconstruction: Reconstruction, tokens: int) -> Work:
    """Moments, errors and right hand sides; for each ridge a factor, the solutions, and powers for the condition."""
    rows, columns, kept = consumer.rows, consumer.columns, consumer.kept
    squares = columns**2 + columns * kept + kept**2
    ridges = 0 if reconstruction.form == "bias" else len(reconstruction.ridges)
    # Before and after on both parts of the windows, and what chooses among the ridges.
    errors = 2 * rows * squares * (4 + ridges)
    powers = 2 * ITERATIONS * kept**2
    products = 2 * tokens * squares + errors + ridges * (2 * rows * columns * kept + powers)
    return Work(least_squares=products, factor=ridges * (kept**3 / 3 + 2 * rows * kept**2 + powers))


def _peak(block: Block) -> int:
    return max(segment.peak for segment in block.segments)
