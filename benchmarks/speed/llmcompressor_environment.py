"""The virtual environment of llm-compressor, which needs another transformers than this project."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from pruning_core.errors import ComputationError, InputError

HERE = Path(__file__).parent
FOLDER = HERE / "llmcompressor_venv"
LOCK = HERE / "llmcompressor.lock"
READY = ".ready"


def interpreter(folder: Path | None) -> Path:
    """The Python that runs llm-compressor, its environment made first where it is absent.

    Args:
        folder: an environment that is there already; None: the one beside this file.

    Raises:
        InputError: the given folder is no virtual environment.
        ComputationError: pip cannot install what the lock file names.
    """
    if folder is not None:
        python = folder / "bin" / "python"
        if not python.exists():
            raise InputError(f"{folder} is no virtual environment; leave the option out to have one made")
        return python
    return _made(FOLDER)


def versions(python: Path) -> dict[str, str]:
    """Versions of what computes in that environment."""
    names = ("llmcompressor", "compressed-tensors", "torch", "transformers")
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{python} lacks llm-compressor: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def _made(folder: Path) -> Path:
    python = folder / "bin" / "python"
    # The same torch for all contestants; first and exactly, as a looser pin would fetch gigabytes of CUDA packages.
    pin = f"torch=={torch.__version__.partition('+')[0]}"
    requirements = f"{pin}\n{LOCK.read_text()}"
    ready = folder / READY
    if ready.is_file() and ready.read_text() == requirements:
        return python
    _run([sys.executable, "-m", "venv", "--clear", folder])
    _run([python, "-m", "pip", "install", "--quiet", pin])
    _run([python, "-m", "pip", "install", "--quiet", pin, "-r", LOCK])
    ready.write_text(requirements)
    return python


def _run(command: list) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ComputationError(f"llm-compressor's environment cannot be made: {last}")
