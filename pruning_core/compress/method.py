"""One compression method at work on one matrix: saliency, pattern, compensation and quantizer together."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pruning_core.calibration.few_tokens import FewTokens
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.column_sweep import Choice, ColumnSweepResult, column_sweep
from pruning_core.column_sweep.grids import Grids
from pruning_core.column_sweep.kernels import kernel_for
from pruning_core.compensation import COMPENSATIONS, Compensation
from pruning_core.compress.factor import InverseFactor, factorize
from pruning_core.compress.stack import Stack
from pruning_core.errors import ComputationError, required
from pruning_core.patterns import Pattern
from pruning_core.quantizers import Quantizer
from pruning_core.quantizers.affine import codes_of
from pruning_core.saliency import SALIENCIES, ColumnStatistics, Saliency


@dataclass(frozen=True)
class CompressedLayer:
    """The outcome for one matrix."""

    weight: Tensor = field(repr=False)
    """[out, in] float32."""
    keep: Tensor = field(repr=False)
    """[out, in] bool, True where a weight survives."""
    loss: float | None
    """0.5 tr(D H D^T), D = change of the weight, H the damped X^T X / tokens; None without a full Hessian."""
    events: tuple[dict[str, Any], ...] = ()
    """The ledger: dead columns, retries, and `factor_failed` where H could not be factored and its diagonal stands in
    for it, in `loss` too."""
    codes: Tensor | None = field(default=None, repr=False)
    """[out, in] uint8, where a quantizer took part: weight = scale (code - zero) of the column's group."""
    scale: Tensor | None = field(default=None, repr=False)
    """[out, groups] float32."""
    zero: Tensor | None = field(default=None, repr=False)
    """[out, groups] float32 holding integers."""
    group: Tensor | None = field(default=None, repr=False)
    """[in] int64: the group of each column."""

    @property
    def quantized(self) -> dict[str, Tensor]:
        """Codes, scale, zero and group by these names; empty where no quantizer took part."""
        parts = {"codes": self.codes, "scale": self.scale, "zero": self.zero, "group": self.group}
        return {name: part for name, part in parts.items() if part is not None}


@dataclass(frozen=True)
class Prepared:
    """What layers with the same input share, columns in natural order.

    For a column sweep also the factor, in the sweep's own order.
    """

    columns: ColumnStatistics
    hessian: Tensor | None = field(default=None, repr=False)
    factor: InverseFactor | None = field(default=None, repr=False)
    order: Tensor | None = field(default=None, repr=False)
    """[in] int64, position in the column sweep -> column; None for natural order."""


@dataclass(frozen=True)
class Method:
    """How every matrix of a variant is compressed."""

    saliency: Saliency | None
    pattern: Pattern | None
    sparsity: float | None
    compensation: Compensation
    quantizer: Quantizer | None = None
    kernel: str = "auto"
    few_tokens: FewTokens = "layer"
    """What becomes of the matrices of experts that got too few calibration tokens
    (`pruning_core.calibration.few_tokens`)."""

    @property
    def compensates(self) -> bool:
        return self.compensation.name == "sweep"

    @property
    def statistics(self) -> str:
        """What calibration has to collect: "none", "diagonal" or "full"."""
        needs = self.saliency.needs if self.saliency else frozenset()
        if self.compensates or "factor" in needs:
            return "full"
        return "diagonal" if "hessian_diag" in needs else "none"

    def modules(self) -> list[str]:
        """Dotted modules of the chosen methods, for cache keys."""
        parts: list[object] = [self.saliency, self.pattern, self.compensation, self.quantizer]
        if self.few_tokens == "magnitude":
            other = self.without_statistics()
            parts += [other.saliency, other.compensation]
        return [type(part).__module__ for part in parts if part is not None]

    def without_statistics(self) -> "Method":
        """The same pattern, budget and quantizer on the weights alone: by magnitude, without compensation."""
        saliency = SALIENCIES.build({"name": "magnitude"}) if self.saliency else None
        fields = {"block": self.compensation.block, "damping": self.compensation.damping}
        return replace(self, saliency=saliency, compensation=COMPENSATIONS.build({"name": "none", **fields}))

    def prepare(self, statistics: LayerStatistics | None) -> Prepared:
        """The shared part of the work for all matrices that read one input.

        Raises:
            ComputationError: no or non-finite statistics.
        """
        if self.statistics == "none":
            return Prepared(ColumnStatistics())
        if statistics is None:
            name = self.saliency.name if self.saliency else "sweep"
            raise ComputationError(f"{name!r} needs calibration statistics")
        if self.statistics == "diagonal":
            return Prepared(ColumnStatistics(hessian_diag=statistics.hessian_diag()))
        hessian = statistics.hessian()
        order = self._order(hessian)
        swept = hessian if order is None else hessian[order][:, order]
        factor = factorize(swept, self.compensation.damping)
        if factor.failed:
            # The factor is that of the diagonal alone, and losses are told in the H that was factored.
            hessian = torch.diag(hessian.diagonal())
        facts = {
            "hessian_diag": hessian.diagonal().clone(),
            "damped_diag": _natural(factor.damped_diag, order),
            "inverse_diag": _natural(factor.inverse_diag, order),
            "factor_diag": _natural(factor.diag, order),
        }
        per_sequence = statistics.tokens / max(statistics.sequences, 1)
        columns = ColumnStatistics(**facts, tokens_per_sequence=per_sequence)
        # The sweep adds up its own loss; only without one is the Hessian needed again.
        return Prepared(columns, None if self.compensates else hessian, factor, order)

    def compress(self, weight: Tensor, prepared: Prepared) -> CompressedLayer:
        """Prune and quantize `weight` ([out, in], any float dtype; not modified)."""
        return self.compress_stacked([weight], prepared)[0]

    def compress_stacked(self, weights: list[Tensor], prepared: Prepared) -> list[CompressedLayer]:
        """Prune and quantize matrices that read one input ([out, in] each), in one column sweep over all their rows.

        Rows never meet in a column sweep but where a pattern lets them compete, and that stays within each matrix.
        """
        stack = Stack(tuple(len(weight) for weight in weights))
        dense = torch.cat([weight.detach().float() for weight in weights])
        if self.pattern:
            self.pattern.check(dense.shape[1])
        start = dense
        events: tuple[dict[str, Any], ...] = ()
        if prepared.factor is not None:
            events = prepared.factor.events
            if prepared.factor.dead.any():
                start = dense.masked_fill(_natural(prepared.factor.dead, prepared.order), 0.0)
        # A grid for whole rows is fitted on the dense weight, as in the GPTQ code; groups on what will be rounded.
        whole_rows = self.quantizer is not None and self.quantizer.group_size is None
        grids = Grids(self.quantizer, dense if whole_rows else start, prepared.order) if self.quantizer else None
        work = self._swept if self.compensates else self._direct
        result = work(start, prepared, grids, stack)
        coded = _coded(grids, prepared.order if self.compensates else None, stack)
        row_losses = [None] * len(weights) if result.row_loss is None else stack(result.row_loss)
        losses = [None if rows is None else float(rows.sum()) for rows in row_losses]
        parts = zip(stack(result.weight), stack(result.keep), losses, coded, strict=True)
        return [CompressedLayer(weight, keep, loss, events, **codes) for weight, keep, loss, codes in parts]

    def _swept(self, start: Tensor, prepared: Prepared, grids: Grids | None, stack: Stack) -> ColumnSweepResult:
        order = prepared.order
        scale = self._scale(prepared.columns, start)
        choice = stack.choice([self._choice(part, prepared, scale) for part in stack(start)])
        kernel = kernel_for(self.kernel, start.device)
        if order is not None:
            start, scale = start[:, order], scale[order]
        upper = required(prepared.factor, "the factor of the Hessian").upper
        result = column_sweep(start, upper, scale, choice, self.compensation.block, kernel, grids)
        return ColumnSweepResult(_natural(result.weight, order), _natural(result.keep, order), result.row_loss)

    def _direct(self, start: Tensor, prepared: Prepared, grids: Grids | None, stack: Stack) -> ColumnSweepResult:
        scale = self._scale(prepared.columns, start)
        removed = torch.cat([self._removed(part, scale) for part in stack(start)])
        final = start.masked_fill(removed, 0.0)
        if grids:
            natural = grids.enter(start, 0, start.shape[1])
            step, zero = natural.scale[:, natural.group], natural.zero[:, natural.group]
            codes = codes_of(start, step, zero, natural.top).where(~removed, zero)
            grids.codes.copy_(codes.to(torch.uint8))
            final = (step * (codes - zero)).masked_fill(removed, 0.0)
        return ColumnSweepResult(final, ~removed, self._loss(final - start, prepared))

    def _order(self, hessian: Tensor) -> Tensor | None:
        if self.quantizer is None or self.quantizer.order == "natural" or not self.compensates:
            return None
        # Dead columns carry a unit diagonal by now in the published code, and sort accordingly.
        diagonal = hessian.diagonal()
        return diagonal.where(diagonal != 0, torch.ones_like(diagonal)).argsort(descending=True, stable=True)

    def _scale(self, columns: ColumnStatistics, weight: Tensor) -> Tensor:
        scale = self.saliency.column_scale(columns, weight.shape[1]) if self.saliency else None
        return torch.ones(weight.shape[1], device=weight.device) if scale is None else scale

    def _removed(self, weight: Tensor, scale: Tensor) -> Tensor:
        if self.pattern is None:
            return torch.zeros_like(weight, dtype=torch.bool)
        return self.pattern.removed(weight.square() * scale, self.sparsity, self.compensation.block)

    def _choice(self, weight: Tensor, prepared: Prepared, scale: Tensor) -> Choice:
        if self.pattern is None:
            return Choice()
        choice = self.pattern.column_sweep_choice(self.sparsity)
        if prepared.order is None:
            return choice or Choice(fixed=self._removed(weight, scale))
        if choice is not None and choice.block is not None:
            return choice
        # Positions matter to the pattern, so it is chosen before the columns move, on weights not yet compensated;
        # u_j^2 depends on the order of the sweep, [H^-1]_jj does not.
        inverse_diag = required(prepared.columns.inverse_diag, "the diagonal of the inverse Hessian")
        static = replace(prepared.columns, factor_diag=inverse_diag.sqrt())
        return Choice(fixed=self._removed(weight, self._scale(static, weight))[:, prepared.order])

    def _loss(self, change: Tensor, prepared: Prepared) -> Tensor | None:
        if prepared.factor is None:
            return None
        hessian = required(prepared.hessian, "the Hessian")
        damped = hessian + prepared.factor.damping * torch.eye(len(hessian), device=change.device)
        return ((change @ damped).double() * change).sum(dim=1) / 2


def _natural(swept: Tensor, order: Tensor | None) -> Tensor:
    """The last dimension back from the order of the column sweep to natural order."""
    if order is None:
        return swept
    # Gathering by the inverse order is several times as fast as scattering by the order.
    return swept.index_select(-1, order.argsort())


def _coded(grids: Grids | None, order: Tensor | None, stack: Stack) -> list[dict[str, Tensor]]:
    """What `CompressedLayer` says of the codes of each matrix; empty without a quantizer."""
    if grids is None:
        return [{} for _ in stack.rows]
    codes, group = _natural(grids.codes, order), _natural(grids.group, order)
    parts = zip(stack(codes), stack(grids.scale), stack(grids.zero), strict=True)
    return [{"codes": own, "scale": scale, "zero": zero, "group": group} for own, scale, zero in parts]
