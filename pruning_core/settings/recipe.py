"""Everything that configures a run, as frozen typed values, checked before a model is loaded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from pruning_core.allocation import Allocation
from pruning_core.compress.block import PROPAGATIONS, Propagation
from pruning_core.compress.method import Method
from pruning_core.errors import InputError, required
from pruning_core.registry import nearest, validated
from pruning_core.sensitivity import SENSITIVITIES, wants_statistics
from pruning_core.settings.allocation import build_allocation
from pruning_core.settings.compute import REMOVED, Compute
from pruning_core.settings.lm_eval import build_lm_eval_tasks
from pruning_core.settings.method import build_method
from pruning_core.settings.plugins import plugin_files
from pruning_core.settings.recovery import Recovering, build_recovery
from pruning_core.settings.samples import build_samples
from pruning_core.settings.schedule import Schedule, build_schedule
from pruning_core.settings.structured import Structured, build_structured
from pruning_core.settings.sweep import Sweep, parse_sweep
from pruning_core.settings.windows import Calibration, Evaluation
from pruning_core.text import TEXTS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BASELINE = "dense"
"""The uncompressed model: always the first row of a comparison, and no name for a variant."""
SECTIONS = (
    *("model", "trust_remote_code", "plugins", "compute", "calibration", "evaluation", "variants", "sweep"),
    "schedule",
)
VARIANT_KEYS = (
    "saliency",
    "pattern",
    "sparsity",
    "compensation",
    "quantizer",
    "kernel",
    "few_tokens",
    "allocation",
    "propagate",
    "max_fallbacks",
    "structured",
    "recovery",
)
BESIDE_THE_METHOD = ("allocation", "propagate", "max_fallbacks", "structured", "recovery")
"""The keys of a variant that say nothing of how one matrix is compressed."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Recipe:
    """One variant."""

    name: str
    method: Method | None
    """How matrices are compressed; None where whole channels and heads go, or training does it all."""
    propagate: Propagation
    spec: dict[str, Any] = field(repr=False)
    """The mapping as written in params.yaml."""
    max_fallbacks: int = 0
    """How many matrices may go without compensation because their Hessian cannot be factored."""
    allocation: Allocation | None = None
    """How much of each matrix goes; None: what the method says, of every matrix alike."""
    structured: Structured | None = None
    """Which channels and heads go."""
    recovery: Recovering | None = None
    """How the compressed model is trained; None: not at all."""

    @property
    def matrix_method(self) -> Method:
        """`method`, of a variant whose matrices are compressed."""
        return required(self.method, f"the method of {self.name}")

    @property
    def compression_spec(self) -> dict[str, Any]:
        """The mapping without what happens to the compressed model: one model for all recoveries of it."""
        return {key: value for key, value in self.spec.items() if key != "recovery"}

    @property
    def method_spec(self) -> dict[str, Any]:
        """The part of the mapping that says how a matrix is compressed."""
        return {key: value for key, value in self.spec.items() if key not in BESIDE_THE_METHOD}

    @property
    def calibrates(self) -> bool:
        """Whether the matrices are compressed with statistics of calibration text."""
        return self.method is not None and self.method.statistics != "none"

    @property
    def allocation_parts(self) -> tuple[Allocation, ...]:
        """The allocation, and those that a search starts from; () where there is none."""
        return () if self.allocation is None else (self.allocation, *getattr(self.allocation, "starts", ()))

    @property
    def allocation_needs(self) -> frozenset[str]:
        """What finding out how much goes where takes: of "model", "weights", "tokens", "statistics" and "levels"."""
        needs: set[str] = set()
        for part in self.allocation_parts:
            needs |= {"model", "tokens", "levels"} if "search" in part.needs else part.needs - {"sensitivity"}
            if part.sensitivity_spec is not None:
                measure = SENSITIVITIES.build(part.sensitivity_spec)
                needs |= measure.needs - {"statistics", "method"}
                needs |= {"statistics"} if wants_statistics(measure.needs, self.method) else set()
        if "levels" in needs and (self.calibrates or self.levels_need_hessians):
            needs.add("statistics")
        return frozenset(needs)

    @property
    def levels_need_hessians(self) -> bool:
        """Whether levels are judged by the error of outputs, which needs statistics whatever the method looks at."""
        return any(getattr(part, "needs_hessians", False) for part in self.allocation_parts)

    @property
    def reads_calibration_text(self) -> bool:
        """Whether the variant looks at calibration text at all, be it to find out how much goes where."""
        shrinks = self.structured is not None and self.structured.reads_tokens
        return self.calibrates or shrinks or bool(self.allocation_needs & {"tokens", "statistics"})


@dataclass(frozen=True)
class Settings:
    """A whole params.yaml."""

    model: str
    trust_remote_code: bool
    calibration: Calibration
    evaluation: Evaluation
    variants: dict[str, Recipe]
    compute: Compute = field(default_factory=Compute)
    sweep: Sweep | None = None
    schedule: Schedule | None = None
    plugins: tuple[str, ...] = ()
    """Files of the workspace that register methods of its own; they are loaded already."""

    def recipe(self, name: str) -> Recipe:
        """The variant of that name; InputError names the nearest."""
        if name not in self.variants:
            names = list(self.variants)
            raise InputError(f"{name!r} is not a variant{nearest(name, names)}; params.yaml has: {', '.join(names)}")
        return self.variants[name]


def parse_settings(mapping: Any) -> Settings:
    """Check a parsed params.yaml.

    Raises:
        InputError: the first thing that is wrong, with its key, what is allowed, and the nearest known key.
    """
    if not isinstance(mapping, Mapping):
        raise InputError("params.yaml must be a mapping with the keys " + ", ".join(SECTIONS))
    _check_keys(mapping, SECTIONS, "")
    for section in ("model", "calibration", "evaluation", "variants"):
        if section not in mapping:
            raise InputError(f"{section} is missing in params.yaml")
    if not isinstance(mapping["model"], str) or not mapping["model"]:
        raise InputError(f"model must be a directory or a hub id such as org/name@revision, got {mapping['model']!r}")
    trust = mapping.get("trust_remote_code", False)
    if not isinstance(trust, bool):
        raise InputError(f"trust_remote_code must be true or false, got {trust!r}")
    compute = _section(Compute, mapping.get("compute", {}), "compute", REMOVED)
    variants = _variants(mapping["variants"], compute.target)
    evaluation = _section(Evaluation, mapping["evaluation"], "evaluation")
    schedule = build_schedule(mapping["schedule"], variants) if "schedule" in mapping else None
    if schedule and schedule.gates.accuracy is not None and not evaluation.tasks:
        raise InputError(
            "schedule.gates.accuracy needs tasks to be right or wrong on; add evaluation.tasks, or remove the gate"
        )
    return Settings(
        mapping["model"],
        trust,
        _section(Calibration, mapping["calibration"], "calibration"),
        evaluation,
        variants,
        compute,
        parse_sweep(mapping["sweep"]) if "sweep" in mapping else None,
        schedule,
        plugin_files(mapping),
    )


def parse_recipe(name: str, spec: Any, device: str = "cpu") -> Recipe:
    """One entry of `variants`, for a model that runs on `device`."""
    where = f"variants.{name}"
    if not NAME.fullmatch(name) or name == BASELINE:
        raise InputError(
            f"{where}: a variant's name is made of lower-case letters, digits, - and _ and is not {BASELINE!r}, "
            "which always means the uncompressed model; rename it"
        )
    if not isinstance(spec, Mapping):
        raise InputError(f"{where} must be a mapping with the keys {', '.join(VARIANT_KEYS)}, got {spec!r}")
    _check_keys(spec, VARIANT_KEYS, where)
    propagate = spec.get("propagate", "compressed")
    if propagate not in PROPAGATIONS:
        raise InputError(
            f"{where}.propagate must be one of {', '.join(PROPAGATIONS)}, got {propagate!r}"
            f"{nearest(propagate, list(PROPAGATIONS))}"
        )
    allowed = spec.get("max_fallbacks", 0)
    if isinstance(allowed, bool) or not isinstance(allowed, int) or allowed < 0:
        raise InputError(f"{where}.max_fallbacks must be a whole number of matrices, 0 or more, got {allowed!r}")
    method = _method(spec, where, torch.device(device))
    recipe = Recipe(
        name,
        method,
        propagate,
        dict(spec),
        allowed,
        build_allocation(spec, method, where) if method else None,
        build_structured(spec["structured"], f"{where}.structured") if "structured" in spec else None,
        build_recovery(spec["recovery"], f"{where}.recovery") if "recovery" in spec else None,
    )
    if method is not None:
        _refuse_unused(recipe, method, where)
    return recipe


def _method(spec: Mapping[str, Any], where: str, device: torch.device) -> Method | None:
    """The method of a variant's matrices; None for one that is made smaller, or trained only."""
    others = [key for key in spec if key not in ("structured", "recovery")]
    if "structured" in spec and others:
        raise InputError(
            f"{where}.{others[0]} is of methods that compress matrices, and structured removes whole channels and "
            "heads; remove one of the two"
        )
    if others and "quantizer" in spec and "recovery" in spec:
        raise InputError(f"{where}.recovery would train weights off the quantizer's grids; remove one of the two")
    if not others and ("structured" in spec or "recovery" in spec):
        return None
    return build_method(spec, where, device)


def _refuse_unused(recipe: Recipe, method: Method, where: str) -> None:
    """Refuse a setting that changes nothing for these methods: whoever wrote it expects something of it."""
    spec = recipe.spec
    blockwise = method.pattern is not None and getattr(method.pattern, "scope", None) == "block"
    compensation = spec.get("compensation", {})
    unused = {
        "kernel": "kernel" in spec and not method.compensates,
        "propagate": "propagate" in spec and not recipe.calibrates,
        "few_tokens": "few_tokens" in spec and not recipe.calibrates,
        "max_fallbacks": "max_fallbacks" in spec and method.statistics != "full",
        "compensation.damping": "damping" in compensation and method.statistics != "full",
        "compensation.block": "block" in compensation and not method.compensates and not blockwise,
    }
    for key, idle in unused.items():
        if idle:
            raise InputError(f"{where}.{key} changes nothing for these methods; remove it")


def _variants(mapping: Any, device: str) -> dict[str, Recipe]:
    if not isinstance(mapping, Mapping) or not mapping:
        raise InputError("variants must be a mapping of at least one name to its recipe")
    return {str(name): parse_recipe(str(name), spec, device) for name, spec in mapping.items()}


def _section(
    cls: "type[DataclassInstance]", mapping: Any, where: str, removed: Mapping[str, str] = MappingProxyType({})
) -> Any:
    """A section of params.yaml.

    Args:
        removed: keys of earlier versions -> what is told of them.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{where} must be a mapping, got {mapping!r}")
    for key in removed.keys() & mapping.keys():
        raise InputError(f"{where}.{key} {removed[key]}")
    fields = sorted(cls.__dataclass_fields__)
    _check_keys(mapping, tuple(fields), where)
    section: Any = validated(lambda: cls(**mapping), where, fields)
    if "text" in fields:
        TEXTS.build(section.text, f"{where}.text")
    if "tasks" in fields:
        build_lm_eval_tasks(section.tasks, f"{where}.tasks")
        if section.samples is not None:
            build_samples(section.samples, section.length, section.windows, f"{where}.samples")
    return section


def _check_keys(mapping: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in mapping:
        if key not in keys:
            place = f"{where}.{key}" if where else str(key)
            raise InputError(f"{place} is not a known key{nearest(key, list(keys))}; known keys: {', '.join(keys)}")
