"""Steps: functions whose result is an artifact, computed once per key.

    @step("prune")
    def prune(params: dict, inputs: dict[str, Artifact], out: Path, context: Context) -> dict | None:
        ...write files below out...
        return facts

The key is everything that the result depends on: the parameters, the content of the inputs, the code that
computes and the versions of the libraries that compute. It never holds a run id, a time or a path.
"""

import functools
import importlib
import importlib.metadata
import platform
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruning_core.errors import ComputationError
from tasks.engine.code_digest import module_digests
from tasks.engine.explain import explanation
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import digest_of, plain
from tasks.store.store import Store

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "numba", "safetensors")

StepFunction = Callable[[dict[str, Any], dict[str, Artifact], Path, "Context"], dict[str, Any] | None]


@dataclass(frozen=True)
class Context:
    """What steps and pipelines are given.

    Args:
        store: where artifacts are.
        workspace: the folder that holds params.yaml.
        run: run(step, params, inputs, label="") -> Artifact; how steps are driven. By default here and now.
        key: inside a step, the key that it computes; "" elsewhere.
    """

    store: Store
    workspace: Path
    run: Callable[..., Artifact] | None = None
    key: str = ""

    def __post_init__(self) -> None:
        # Bound to this context, also when `dataclasses.replace` made it from one that ran directly.
        if self.run is None or getattr(self.run, "func", None) is direct:
            object.__setattr__(self, "run", functools.partial(direct, self))

    @property
    def scratch(self) -> Path:
        """Inside a step: its folder for checkpoints, which survives a kill and goes once the step is done."""
        return self.store.scratch(self.key)


def direct(
    context: Context, step: "Step", params: dict[str, Any], inputs: dict[str, Artifact], label: str = ""
) -> Artifact:
    """Run a step in this process, without an orchestrator."""
    return step.run(context, params, inputs, label)


@dataclass(frozen=True)
class Step:
    """A named, cached computation; see the module's docstring."""

    name: str
    function: StepFunction
    modules: Callable[[dict[str, Any]], list[str]] | None = None
    unkeyed: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Callable[..., "Step"], tuple[str, str]]:
        # Workers of a cluster are sent the name of a step, never its code.
        return load_step, (self.function.__module__, self.function.__qualname__)

    def ingredients(self, params: dict[str, Any], inputs: dict[str, Artifact | None]) -> dict[str, Any]:
        """Everything that the key depends on, as JSON, for the manifest and for `explain`.

        Raises:
            InputError: params holds a path, NaN, a date or a key that is not text.
        """
        params = plain(params, "params")
        chosen = self.modules(params) if self.modules else []
        params = {name: value for name, value in params.items() if name not in self.unkeyed}
        modules = module_digests([self.function.__module__, *chosen])
        return {
            "step": self.name,
            "params": params,
            "inputs": {name: _input_facts(artifact) for name, artifact in inputs.items()},
            "source": digest_of(modules),
            "modules": modules,
            "versions": versions(),
        }

    def key(self, params: dict[str, Any], inputs: dict[str, Artifact]) -> str:
        """sha256 over the step's name, params, input digests, source and library versions; 64 hex digits."""
        return key_of(self.ingredients(params, inputs))

    def run(self, context: Context, params: dict[str, Any], inputs: dict[str, Artifact], label: str = "") -> Artifact:
        """The artifact of (params, inputs): found in the context's store, or computed into it.

        `label` is for people (it names the variant) and changes nothing.
        """
        found = self.ingredients(params, inputs)
        key = key_of(found)
        within = replace(context, key=key)

        def compute(out: Path) -> dict[str, Any] | None:
            _require_intact(context.store, inputs)
            facts = self.function(plain(params), dict(inputs), out, within)
            # Once more: what was altered under the step's hands may have been read.
            _require_intact(context.store, inputs)
            return facts

        provenance = {name: value for name, value in found.items() if name != "step"}
        artifact = context.store.get_or_compute(self.name, key, provenance, compute)
        if not artifact.hit:
            context.store.discard_scratch(key)
        return artifact

    def explain(self, store: Store, params: dict[str, Any], inputs: dict[str, Artifact | None]) -> dict[str, Any]:
        """Whether (params, inputs) is cached and, if not, what differs from the most similar artifact stored.

        An input that is not computed yet is given as None. See `tasks.engine.explain.explanation` for the form.
        """
        found = self.ingredients(params, inputs)
        key = key_of(found) if all(inputs.values()) else None
        return explanation(store, self.name, key, found)


def step(
    name: str, modules: Callable[[dict[str, Any]], list[str]] | None = None, unkeyed: tuple[str, ...] = ()
) -> Callable[[StepFunction], Step]:
    """Make a Step of a function.

    Args:
        name: also the kind of its artifacts.
        modules: dotted names of the modules that these params choose at run time (registered methods), which
            the imports of the step's own module do not show.
        unkeyed: params that say how to compute and leave the result as it is; no part of the key.
    """
    return lambda function: Step(name, function, modules, unkeyed)


def load_step(module: str, name: str) -> Step:
    """The step called `name` in `module`."""
    return getattr(importlib.import_module(module), name)


def key_of(ingredients: dict[str, Any]) -> str:
    """The cache key of a step's ingredients. Of an input only its content counts, not how that came to be."""
    contents = {name: facts["digest"] for name, facts in ingredients["inputs"].items()}
    counted = {name: ingredients[name] for name in ("step", "params", "source", "versions")}
    return digest_of({**counted, "inputs": contents})


@functools.cache
def _versions() -> dict[str, str]:
    found = {"espalier": _own_version(), "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "absent"
    return found


def versions() -> dict[str, str]:
    """The versions of Python, this project and the libraries that compute, or "absent"."""
    return dict(_versions())


def _own_version() -> str:
    # In a checkout the project file is right even when it was installed before it was last edited.
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        return tomllib.loads(project.read_text())["project"]["version"]
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
    return artifact and {"kind": artifact.kind, "key": artifact.key, "digest": artifact.digest}
