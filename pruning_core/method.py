"""One compression method: saliency, pattern, sparsity and compensation, checked together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pruning_core.compensation import COMPENSATIONS, Compensation
from pruning_core.errors import ComputationError, InputError
from pruning_core.factor import InverseFactor, factorize
from pruning_core.patterns import PATTERNS, Pattern
from pruning_core.saliency import SALIENCIES, ColumnStatistics, Saliency
from pruning_core.statistics import LayerStatistics
from pruning_core.sweep import Choice, kernel_for, sweep


@dataclass(frozen=True)
class CompressedLayer:
    """The outcome for one matrix."""

    weight: Tensor = field(repr=False)
    """[out, in] float32."""
    keep: Tensor = field(repr=False)
    """[out, in] bool, True where a weight survives."""
    loss: float | None
    """0.5 tr(D H D^T), D = change of the weight, H the damped X^T X / tokens; None without a full Hessian."""
    events: tuple[dict, ...] = ()
    """The ledger: dead columns and every fallback."""


@dataclass(frozen=True)
class Prepared:
    """What layers with the same input share: column facts and, for a sweep, the factor."""

    columns: ColumnStatistics
    hessian: Tensor | None = field(repr=False)
    factor: InverseFactor | None = field(repr=False)


@dataclass(frozen=True)
class Method:
    """How every matrix of a variant is compressed."""

    saliency: Saliency
    pattern: Pattern
    sparsity: float | None
    compensation: Compensation
    kernel: str = "auto"

    @property
    def compensates(self) -> bool:
        return self.compensation.name == "sweep"

    @property
    def statistics(self) -> str:
        """What calibration has to collect: "none", "diagonal" or "full"."""
        if self.compensates or "factor_diag" in self.saliency.needs:
            return "full"
        return "diagonal" if "hessian_diag" in self.saliency.needs else "none"

    def modules(self) -> list[str]:
        """Dotted modules of the chosen methods, for cache keys."""
        return [type(part).__module__ for part in (self.saliency, self.pattern, self.compensation)]

    def prepare(self, statistics: LayerStatistics | None) -> Prepared:
        """The shared part of the work for all matrices that read one input.

        Raises:
            ComputationError: no or non-finite statistics, or a Hessian that cannot be factored.
        """
        if self.statistics == "none":
            return Prepared(ColumnStatistics(), None, None)
        if statistics is None:
            raise ComputationError(f"saliency {self.saliency.name!r} needs calibration statistics")
        if self.statistics == "diagonal":
            return Prepared(ColumnStatistics(hessian_diag=statistics.hessian_diag()), None, None)
        hessian = statistics.hessian()
        factor = factorize(hessian, self.compensation.damping)
        columns = ColumnStatistics(hessian_diag=hessian.diagonal(), factor_diag=factor.diag)
        return Prepared(columns, hessian, factor)

    def compress(self, weight: Tensor, prepared: Prepared) -> CompressedLayer:
        """Prune `weight` ([out, in], any float dtype; not modified)."""
        rows, columns = weight.shape
        self.pattern.check(columns)
        start = weight.detach().float().clone()
        events: tuple[dict, ...] = ()
        if prepared.factor is not None:
            start[:, prepared.factor.dead] = 0.0
            events = prepared.factor.events
        scale = self.saliency.column_scale(prepared.columns, columns)
        if scale is None:
            scale = torch.ones(columns, device=start.device)
        if self.compensates:
            choice = self._choice(start, scale)
            kernel = kernel_for(self.kernel, start.device)
            done = sweep(start, prepared.factor.upper, scale, choice, self.compensation.block, kernel)
            return CompressedLayer(done.weight, done.keep, done.loss, events)
        keep = ~self._removed(start, scale)
        pruned = start * keep
        return CompressedLayer(pruned, keep, self._loss(pruned - start, prepared), events)

    def _removed(self, weight: Tensor, scale: Tensor) -> Tensor:
        return self.pattern.removed(weight.square() * scale, self.sparsity, self.compensation.block)

    def _choice(self, weight: Tensor, scale: Tensor) -> Choice:
        if not self.pattern.takes_sparsity:
            return Choice(n_of_m=(self.pattern.n, self.pattern.m))
        if self.pattern.columns_per_choice(weight.shape[1], self.compensation.block) is None:
            return Choice(fixed=self._removed(weight, scale))
        pattern, sparsity = self.pattern, self.sparsity
        return Choice(block=lambda score, first: pattern.removed_in_block(score, sparsity, first))

    def _loss(self, change: Tensor, prepared: Prepared) -> float | None:
        if prepared.factor is None:
            return None
        damped = prepared.hessian + prepared.factor.damping * torch.eye(
            len(prepared.hessian), device=change.device
        )
        return float(((change @ damped).double() * change).sum()) / 2


def build_method(spec: Mapping[str, Any], where: str = "method") -> Method:
    """The method that the keys saliency, pattern, sparsity, compensation and kernel describe.

    Raises:
        InputError: an unknown or missing setting, a value out of range, or settings that exclude each other.
    """
    saliency = SALIENCIES.build(_given(spec, "saliency", where), f"{where}.saliency")
    pattern = PATTERNS.build(_pattern_mapping(spec, where), f"{where}.pattern")
    compensation = COMPENSATIONS.build(spec.get("compensation", {"name": "none"}), f"{where}.compensation")
    sparsity = _sparsity(spec.get("sparsity"), pattern, where)
    kernel = spec.get("kernel", "auto")
    kernel_for(kernel, torch.device("cpu"))
    return Method(saliency, pattern, sparsity, compensation, kernel)


def _given(spec: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in spec:
        raise InputError(f"{where}.{key} is missing; a compressed variant needs a saliency and a pattern")
    return spec[key]


def _pattern_mapping(spec: Mapping[str, Any], where: str) -> Any:
    pattern = _given(spec, "pattern", where)
    if isinstance(pattern, int) and pattern >= 61:
        n, m = divmod(pattern, 60)
        raise InputError(
            f"{where}.pattern is the number {pattern}, which is how YAML reads an unquoted {n}:{m}; "
            f"write {{name: n_of_m, n: {n}, m: {m}}}"
        )
    if isinstance(pattern, str) and pattern.replace(":", "").isdigit() and pattern.count(":") == 1:
        n, m = pattern.split(":")
        raise InputError(
            f"{where}.pattern is {pattern!r}; write {{name: n_of_m, n: {n}, m: {m}}} (n of every m are kept)"
        )
    return pattern


def _sparsity(value: Any, pattern: Pattern, where: str) -> float | None:
    if not pattern.takes_sparsity:
        if value is not None:
            raise InputError(
                f"{where}.sparsity cannot be set: pattern {pattern.name!r} fixes it; remove the key"
            )
        return None
    if value is None:
        raise InputError(f"{where}.sparsity is missing; give the fraction of weights to remove, in [0, 1)")
    if isinstance(value, str):
        raise InputError(
            f"{where}.sparsity is the text {value!r} where a number is needed; write it as in 0.5"
        )
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{where}.sparsity must be a fraction in [0, 1), got {value!r}; 50 % is 0.5")
    return float(value)


def compress_layer(
    weight: Tensor,
    stats: LayerStatistics | None = None,
    *,
    saliency: Mapping[str, Any],
    pattern: Mapping[str, Any],
    sparsity: float | None = None,
    compensation: Mapping[str, Any] | None = None,
    kernel: str = "auto",
) -> CompressedLayer:
    """Compress one matrix; every method is given as its params.yaml mapping.

    Args:
        weight: [out, in], any float dtype; not modified.
        stats: statistics of the layer's inputs; only magnitude without a sweep does without.
        sparsity: removed fraction; None for n_of_m.
        compensation: default {"name": "none"}.
    """
    spec = {"saliency": saliency, "pattern": pattern, "kernel": kernel}
    spec["compensation"] = compensation or {"name": "none"}
    if sparsity is not None:
        spec["sparsity"] = sparsity
    method = build_method(spec, "compress_layer")
    return method.compress(weight, method.prepare(stats))
