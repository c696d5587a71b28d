"""Methods from their params.yaml mappings, checked together; the one-call form for a single matrix."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pruning_core.calibration.few_tokens import RULES, FewTokens
from pruning_core.calibration.statistics import LayerStatistics
from pruning_core.column_sweep.kernels import kernel_name
from pruning_core.compensation import COMPENSATIONS
from pruning_core.compress.fallbacks import check_fallbacks
from pruning_core.compress.method import CompressedLayer, Method
from pruning_core.errors import InputError
from pruning_core.patterns import PATTERNS, Pattern
from pruning_core.quantizers import QUANTIZERS
from pruning_core.registry import nearest
from pruning_core.saliency import SALIENCIES

CPU = torch.device("cpu")


def build_method(spec: Mapping[str, Any], where: str = "method", device: torch.device = CPU) -> Method:
    """The method that the keys of a variant describe, for weights on `device`.

    Raises:
        InputError: an unknown or missing setting, a value out of range, or settings that exclude each other.
    """
    quantizer = spec.get("quantizer")
    if quantizer is not None:
        quantizer = QUANTIZERS.build(quantizer, f"{where}.quantizer")
    compensation = COMPENSATIONS.build(spec.get("compensation", {"name": "none"}), f"{where}.compensation")
    kernel = spec.get("kernel", "auto")
    kernel_name(kernel, device)
    rule = _few_tokens(spec, where)
    if quantizer is not None and spec.get("pattern") is None and spec.get("saliency") is None:
        _refuse_sparsity(spec, where)
        return Method(None, None, None, compensation, quantizer, kernel, rule)
    pattern = PATTERNS.build(_pattern_mapping(spec, where), f"{where}.pattern")
    chooses = pattern.name != "existing"
    saliency = SALIENCIES.build(_present(spec, "saliency", where), f"{where}.saliency") if chooses else None
    sparsity = _sparsity(spec.get("sparsity"), pattern, where)
    return Method(saliency, pattern, sparsity, compensation, quantizer, kernel, rule)


def _few_tokens(spec: Mapping[str, Any], where: str) -> FewTokens:
    rule: FewTokens = spec.get("few_tokens", "layer")
    if rule not in RULES:
        raise InputError(
            f"{where}.few_tokens must be one of {', '.join(RULES)}, got {rule!r}{nearest(str(rule), list(RULES))}"
        )
    return rule


def _refuse_sparsity(spec: Mapping[str, Any], where: str) -> None:
    if spec.get("sparsity") is not None:
        raise InputError(f"{where}.sparsity needs a saliency and a pattern; add them or remove the key")


def _present(spec: Mapping[str, Any], key: str, where: str) -> Any:
    if spec.get(key) is None:
        raise InputError(f"{where}.{key} is missing; a compressed variant needs a saliency and a pattern")
    return spec[key]


def _pattern_mapping(spec: Mapping[str, Any], where: str) -> Any:
    pattern = _present(spec, "pattern", where)
    if isinstance(pattern, Mapping) and isinstance(pattern.get("name"), int):
        # {name: 2:4} is the same slip one level down.
        _pattern_mapping({"pattern": pattern["name"]}, where)
    if isinstance(pattern, int) and pattern >= 61:
        n, m = divmod(pattern, 60)
        raise InputError(
            f"{where}.pattern is the number {pattern}, which is how YAML reads an unquoted {n}:{m}; "
            f"write {{name: n_of_m, n: {n}, m: {m}}}"
        )
    if isinstance(pattern, str) and pattern.replace(":", "").isdigit() and pattern.count(":") == 1:
        kept, group = pattern.split(":")
        raise InputError(
            f"{where}.pattern is {pattern!r}; write {{name: n_of_m, n: {kept}, m: {group}}} (n of every m are kept)"
        )
    return pattern


def _sparsity(value: Any, pattern: Pattern, where: str) -> float | None:
    if not pattern.takes_sparsity:
        if value is not None:
            raise InputError(f"{where}.sparsity cannot be set: pattern {pattern.name!r} fixes it; remove the key")
        return None
    if value is None:
        raise InputError(f"{where}.sparsity is missing; give the fraction of weights to remove, in [0, 1)")
    if isinstance(value, str):
        raise InputError(f"{where}.sparsity is the text {value!r} where a number is needed; write it as in 0.5")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise InputError(f"{where}.sparsity must be a fraction in [0, 1), got {value!r}; 50 % is 0.5")
    return float(value)


def compress_layer(
    weight: Tensor,
    stats: LayerStatistics | None = None,
    *,
    saliency: Mapping[str, Any] | None = None,
    pattern: Mapping[str, Any] | None = None,
    sparsity: float | None = None,
    compensation: Mapping[str, Any] | None = None,
    quantizer: Mapping[str, Any] | None = None,
    kernel: str = "auto",
    max_fallbacks: int = 0,
) -> CompressedLayer:
    """Compress one matrix; every method is given as its params.yaml mapping.

    Args:
        weight: [out, in], any float dtype; not modified.
        stats: statistics of the layer's inputs; only magnitude without a column sweep does without.
        sparsity: removed fraction; None for n_of_m.
        compensation: default {"name": "none"}.
        quantizer: None keeps float values. With neither saliency nor pattern the matrix is only quantized.
        max_fallbacks: 1 lets the diagonal stand in for a Hessian that cannot be factored; see the result's events.

    Raises:
        InputError: as `build_method`.
        ComputationError: no or non-finite statistics, or a Hessian that cannot be factored.
    """
    settings = {
        "saliency": saliency,
        "pattern": pattern,
        "sparsity": sparsity,
        "compensation": compensation or {"name": "none"},
        "quantizer": quantizer,
        "kernel": kernel,
    }
    spec = {key: value for key, value in settings.items() if value is not None}
    method = build_method(spec, "compress_layer", weight.device)
    layer = method.compress(weight, method.prepare(stats))
    check_fallbacks(layer.events, max_fallbacks)
    return layer
