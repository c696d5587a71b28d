"""Workspaces with a tiny model that a whole module may share, and real commands in them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
import yaml
from commands import BIN, Command, Finished
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flows.cli import SAFE
from tasks.orchestration import prefect_settings
from tasks.tracking import connection

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = 50
SWEEP = {"name": "sweep", "block": 8}
VARIANTS = {
    "sparsegpt-50": {
        "saliency": {"name": "obs"},
        "pattern": {"name": "unstructured"},
        "sparsity": 0.5,
        "compensation": SWEEP,
    },
    "magnitude-50": {
        "saliency": {"name": "magnitude"},
        "pattern": {"name": "unstructured", "scope": "matrix"},
        "sparsity": 0.5,
    },
}


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Path:
    """train.txt and test.txt; all workspaces share them, for their paths are part of the recipe."""
    folder = tmp_path_factory.mktemp("texts")
    draw = torch.Generator().manual_seed(0)
    for split, words in (("train", 4000), ("test", 600)):
        ids = torch.randint(1, VOCABULARY, (words,), generator=draw).tolist()
        (folder / f"{split}.txt").write_text(" ".join(f"w{index}" for index in ids))
    return folder


@pytest.fixture(scope="session")
def make_workspace(tmp_path_factory, texts: Path) -> Callable[..., Path]:
    """make_workspace(**config) -> a folder with params.yaml and models/tiny, a random Llama; keywords change it."""

    def make(**config: Any) -> Path:
        root = tmp_path_factory.mktemp("workspace")
        _write_model(root / "models" / "tiny", config)
        params = {
            "model": "models/tiny",
            "trust_remote_code": False,
            "calibration": _text(texts / "train.txt") | {"sequences": 8, "batch": 4},
            "evaluation": _text(texts / "test.txt") | {"windows": 12},
            "variants": VARIANTS,
        }
        (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        return root

    return make


def _text(path: Path) -> dict[str, Any]:
    return {"text": {"name": "file", "path": str(path)}, "length": 16}


def _write_model(path: Path, config: dict[str, Any]) -> None:
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "initializer_range": 0.3,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**settings | config)).save_pretrained(path)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(path)


@pytest.fixture(scope="session")
def environment(prefect_server) -> dict[str, str]:
    """What commands are started with: a person's, but for one Prefect server that all share."""
    from prefect.settings import PREFECT_API_URL

    variables = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = os.pathsep.join([str(BIN), variables.get("PATH", "")])
    return variables | {"PREFECT_API_URL": PREFECT_API_URL.value(), "PATH": path, "COLUMNS": "160"}


@pytest.fixture
def start(environment, tmp_path_factory) -> Callable[..., Command]:
    """start(root, name, *arguments): a real command under way."""

    def run(root: Path, *command: str, **variables: str) -> Command:
        return commands.start(list(command), root, tmp_path_factory.mktemp("output"), environment | variables)

    return run


@pytest.fixture(scope="session")
def start_warm(environment, tmp_path_factory) -> Iterator[Callable[..., Command]]:
    """start_warm(root, *arguments): an espalier command under way, its imports done."""
    home = tmp_path_factory.mktemp("prefect")
    quiet = connection.QUIET | prefect_settings.QUIET | SAFE
    commands.preload(environment | quiet | {"PREFECT_HOME": str(home)})

    def run(root: Path, *arguments: str) -> Command:
        return commands.start_warm(list(arguments), root, tmp_path_factory.mktemp("output"))

    yield run


@pytest.fixture(scope="session")
def dvc(environment) -> Callable[..., str]:
    """dvc(root, *arguments) -> what it printed; the test fails when it fails."""

    def run(root: Path, *arguments: str) -> str:
        command = ["dvc", *arguments]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def as_repository(dvc) -> Callable[[Path], Path]:
    """as_repository(root): puts a workspace under git and DVC: the real dvc.yaml, and copies of what it watches."""

    def put(root: Path) -> Path:
        shutil.copy(ROOT / "dvc.yaml", root)
        for package in ("pruning_core", "tasks"):
            shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
        dvc(root, "init", "--quiet")
        return root

    return put


@pytest.fixture(scope="session")
def make_repository(as_repository, make_workspace) -> Callable[[], Path]:
    """make_repository() -> the tiny workspace under git and DVC."""
    return lambda: as_repository(make_workspace())


@pytest.fixture(scope="session")
def espalier(start_warm) -> Callable[..., Finished]:
    """espalier(root, *arguments): a finished command."""
    return lambda root, *arguments: start_warm(root, *arguments).wait()
