"""The shipped model in small workspaces, what an undisturbed sweep of it makes, and where the figures go.

CHAOS_SEED repeats a run's random choices; CHAOS_FIGURES names the file for the figures.
"""

import json
import os
import random
import secrets
import shutil
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults import SWEEP, Undisturbed, digests, labels

from benchmarks.common.machine import machine

ROOT = Path(__file__).resolve().parents[3]
# Large enough for a block to take some tenths of a second, small enough for a sweep in some ten seconds.
CALIBRATION = {"sequences": 48, "length": 256, "batch": 8}
EVALUATION = {"length": 256, "windows": 8, "batch": 8}
TEXTS = {
    "train": ("argparse.py", "inspect.py", "typing.py", "tarfile.py"),
    "test": ("zipfile.py", "shutil.py"),
}
VARIANTS = {
    "sparsegpt-50": {
        "saliency": {"name": "obs"},
        "pattern": {"name": "unstructured", "scope": "block"},
        "sparsity": 0.5,
        "compensation": {"name": "sweep", "block": 128, "damping": 0.01},
        "propagate": "compressed",
    },
    "wanda-50": {
        "saliency": {"name": "wanda"},
        "pattern": {"name": "unstructured", "scope": "row"},
        "sparsity": 0.5,
        "compensation": {"name": "none"},
        "propagate": "dense",
    },
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All that lies here runs on request only: with `-m chaos`."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    if config.getoption("markexpr") == "chaos":
        for item in here:
            item.add_marker(pytest.mark.chaos)
    else:
        items[:] = [item for item in items if item not in here]
        config.hook.pytest_deselected(items=here)


@pytest.fixture(scope="session")
def seed() -> int:
    """Of every random choice."""
    drawn = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(10**6))
    print(f"\nseed       {drawn} (repeat with CHAOS_SEED={drawn})")
    return drawn


@pytest.fixture
def draw(seed: int, request) -> random.Random:
    """Random choices of one test, whichever others run."""
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture(scope="session")
def figures(seed: int) -> Callable[..., None]:
    """figures(scenario, line, **facts): prints the line, and keeps line and facts for docs/reliability.md."""
    file = Path(os.environ.get("CHAOS_FIGURES") or ROOT / "docs" / "reliability.json")

    def keep(scenario: str, line: str, **facts: Any) -> None:
        print(f"\n{scenario:12} {line}")
        written = json.loads(file.read_text()) if file.is_file() else {}
        scenarios = written.get("scenarios", {}) | {scenario: {"line": line, "seed": seed, **facts}}
        page = {"machine": machine(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count())), "scenarios": scenarios}
        file.write_text(json.dumps(page, indent=1) + "\n", encoding="utf-8")

    return keep


@pytest.fixture(scope="session")
def checkout(environment) -> dict[str, str]:
    """What commands that are no forks are started with: the packages beside these tests, wherever else some are."""
    return environment | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def chaos_texts(tmp_path_factory) -> Path:
    """train.txt and test.txt out of the standard library."""
    folder, library = tmp_path_factory.mktemp("chaos-texts"), Path(sysconfig.get_path("stdlib"))
    for split, names in TEXTS.items():
        (folder / f"{split}.txt").write_text("\n".join((library / name).read_text() for name in names))
    return folder


@pytest.fixture(scope="session")
def shipped(tmp_path_factory, chaos_texts: Path) -> Callable[[], Path]:
    """shipped() -> a new workspace with the shipped model, two variants and a little text."""

    def make() -> Path:
        root = tmp_path_factory.mktemp("chaos")
        shutil.copytree(ROOT / "models" / "stdlib-2.8m", root / "models" / "stdlib-2.8m")
        params = {
            "model": "models/stdlib-2.8m",
            "trust_remote_code": False,
            "calibration": {"text": {"name": "file", "path": str(chaos_texts / "train.txt")}, **CALIBRATION},
            "evaluation": {"text": {"name": "file", "path": str(chaos_texts / "test.txt")}, **EVALUATION},
            "variants": VARIANTS,
        }
        (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        return root

    return make


@pytest.fixture(scope="session")
def undisturbed(shipped, start_warm) -> Undisturbed:
    """A sweep that nothing happens to."""
    # The first one compiles kernels and fills the caches of the disk; the second tells how long a sweep takes.
    for _ in range(2):
        root, begun = shipped(), time.monotonic()
        done = start_warm(root, *SWEEP).wait()
        assert done.code == 0, done.err
    return Undisturbed(root, time.monotonic() - begun, digests(root), labels(root))
