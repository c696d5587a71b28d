"""Steps: functions whose result is an artifact, computed once per key.

    @dataclass(frozen=True, kw_only=True)
    class PruneParams:
        sparsity: float

    @step("prune")
    def prune(params: PruneParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict | None:
        ...write files below out...
        return facts

The key is everything that the result depends on: the parameters, the content of the inputs, the code that
computes and the versions of the libraries that compute. It never holds a run id, a time or a path.

`context.run(step, params, inputs, label)` makes a `Call` of them, whose key is worked out there and nowhere else, and
hands it to the context's driver: `direct` here, `tasks.orchestration.step_tasks.prefect_driver`, or
`tasks.engine.look.Look`.
"""

import functools
import importlib
import importlib.metadata
import platform
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruning_core.errors import ComputationError
from tasks.engine.code_digest import module_digests
from tasks.engine.params import as_json, of_json, params_type
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import digest_of
from tasks.store.store import Store

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "numba", "safetensors")

StepFunction = Callable[[Any, dict[str, Artifact], Path, "Context"], dict[str, Any] | None]
Driver = Callable[["Context", "Call"], Any]
"""driver(context, call) -> Artifact: how a step is run. A driver that only looks returns None for what is not there."""


@dataclass(frozen=True)
class Step:
    """A named, cached computation; see the module's docstring."""

    name: str
    function: StepFunction
    modules: Callable[[Any], list[str]] | None = None
    unkeyed: tuple[str, ...] = ()
    params: type | None = None

    def __reduce__(self) -> tuple[Callable[..., "Step"], tuple[str, str]]:
        # Workers of a cluster are sent the name of a step, never its code.
        return load_step, (self.function.__module__, self.function.__qualname__)

    def call(self, params: Any, inputs: Mapping[str, Artifact | None], label: str = "") -> "Call":
        """A call of the step with these params and inputs, and its key.

        Args:
            params: of the step's own type, or the same as a mapping.

        Raises:
            InputError: params holds a path, NaN, a date or a key that is not text.
        """
        params = as_json(self.parse_params(params) if isinstance(params, Mapping) else params)
        ingredients = self.ingredients(params, inputs)
        key = key_of(ingredients) if all(inputs.values()) else None
        return Call(self, params, dict(inputs), ingredients, key, label or self.name)

    def parse_params(self, params: Mapping[str, Any]) -> Any:
        """Plain JSON as the params of the step's function: a copy, which it may change."""
        return of_json(self.params, params)

    def ingredients(self, params: dict[str, Any], inputs: Mapping[str, Artifact | None]) -> dict[str, Any]:
        """Everything that the key depends on, as JSON, for the manifest and for `explain`; `params` is plain JSON."""
        of_methods = self.modules(self.parse_params(params)) if self.modules else []
        modules = module_digests([self.function.__module__, *of_methods])
        return {
            "step": self.name,
            "params": {name: value for name, value in params.items() if name not in self.unkeyed},
            "inputs": {name: _input_facts(artifact) for name, artifact in inputs.items()},
            "source": digest_of(modules),
            "modules": modules,
            "versions": versions(),
        }


@dataclass(frozen=True)
class Call:
    """A step with its params and inputs: all that a driver needs.

    Args:
        params: plain JSON.
        inputs: name -> artifact, None where a driver that only looks found none.
        ingredients: as `Step.ingredients` gives them.
        key: sha256 over the step's name, params, input digests, source and library versions, 64 hex digits; None
            while an input is not computed.
        label: for people (it names the variant); changes nothing.
    """

    step: Step
    params: dict[str, Any]
    inputs: dict[str, Artifact | None]
    ingredients: dict[str, Any]
    key: str | None
    label: str


def direct(context: "Context", call: Call, missed: bool = False) -> Artifact:
    """Find the result of a call, or compute it in this process; the driver without an orchestrator.

    Args:
        missed: it was looked for just now and is not there.

    Raises:
        ComputationError: an input is not computed, or was altered since it was found.
    """
    inputs = {name: artifact for name, artifact in call.inputs.items() if artifact is not None}
    if call.key is None:
        raise ComputationError(f"{call.label} needs {', '.join(call.inputs.keys() - inputs.keys())}, not computed yet")
    within = replace(context, key=call.key)

    def compute(out: Path) -> dict[str, Any] | None:
        _require_intact(context.store, inputs)
        facts = call.step.function(call.step.parse_params(call.params), dict(inputs), out, within)
        # Once more: what was altered under the step's hands may have been read.
        _require_intact(context.store, inputs)
        return facts

    provenance = {name: value for name, value in call.ingredients.items() if name != "step"}
    make = context.store.compute if missed else context.store.get_or_compute
    artifact = make(call.step.name, call.key, provenance, compute)
    if not artifact.hit:
        context.store.discard_scratch(call.key)
    return artifact


@dataclass(frozen=True)
class Context:
    """What steps and pipelines work with.

    Args:
        store: where artifacts are.
        workspace: the folder that holds params.yaml.
        driver: how steps are run; by default here and now.
        key: inside a step, the key that it computes; "" elsewhere.
    """

    store: Store
    workspace: Path
    driver: Driver = direct
    key: str = ""

    def run(self, step: Step, params: Any, inputs: Mapping[str, Artifact | None], label: str = "") -> Any:
        """The artifact of (params, inputs), found or computed; from a driver that only looks, None where it is missing.

        `label` is for people (it names the variant) and changes nothing.
        """
        return self.driver(self, step.call(params, inputs, label))

    @property
    def scratch(self) -> Path:
        """Inside a step: its folder for checkpoints, which survives a kill and goes once the step is done."""
        return self.store.scratch(self.key)


def step(
    name: str, modules: Callable[[Any], list[str]] | None = None, unkeyed: tuple[str, ...] = ()
) -> Callable[[StepFunction], Step]:
    """A decorator that makes a Step of a function.

    Args:
        name: also the kind of its artifacts.
        modules: dotted names of the modules that these params choose at run time (registered methods), which
            the imports of the step's own module do not show.
        unkeyed: params that say how to compute and leave the result as it is; no part of the key.
    """
    return lambda function: Step(name, function, modules, unkeyed, params_type(function))


def load_step(module: str, name: str) -> Step:
    """The step called `name` in `module`."""
    named_step: Step = getattr(importlib.import_module(module), name)
    return named_step


def key_of(ingredients: dict[str, Any]) -> str:
    """The cache key of a step's ingredients. Of an input only its content counts, not how that came to be."""
    contents = {name: facts["digest"] for name, facts in ingredients["inputs"].items()}
    counted = {name: ingredients[name] for name in ("step", "params", "source", "versions")}
    return digest_of({**counted, "inputs": contents})


@functools.cache
def _versions() -> dict[str, str]:
    installed = {"espalier": _own_version(), "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            installed[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            installed[library] = "absent"
    return installed


def versions() -> dict[str, str]:
    """The versions of Python, this project and the libraries that compute, or "absent"."""
    return dict(_versions())


def _own_version() -> str:
    # In a checkout the project file is right even when it was installed before it was last edited.
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        version: str = tomllib.loads(project.read_text())["project"]["version"]
        return version
    return importlib.metadata.version("espalier")


def _require_intact(store: Store, inputs: dict[str, Artifact]) -> None:
    """Stop before a result is made of an input that was altered since it was found; sizes, times and inodes tell."""
    for name, artifact in inputs.items():
        _, problem = store.check(artifact.key)
        if problem:
            raise ComputationError(
                f"the stored {artifact.kind} {artifact.path}, {name} of a step, was altered during the run "
                f"({problem}); run the same command again: it is then computed anew"
            )


def _input_facts(artifact: Artifact | None) -> dict[str, str] | None:
    return {"kind": artifact.kind, "key": artifact.key, "digest": artifact.digest} if artifact else None
