"""What all tests share: reference data, models small enough to be made anew, a workspace, one Prefect server."""

import os
import shutil
import signal

# Triton reads it when it is first imported, which transformers does: the kernels are then interpreted, on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tasks.machine import process_identity
from tasks.orchestration import prefect_settings

if TYPE_CHECKING:
    # Imported where they are needed: the process that hands out the tests to others needs them nowhere.
    from torch import nn
    from transformers import LlamaForCausalLM, PretrainedConfig

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell has what it starts in the background ignore Ctrl-C, commands that tests start and stop with it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Prefect reads its environment when it is imported, which the test modules do.
PREFECT_WORKSPACE = tempfile.TemporaryDirectory(prefix="espalier-tests-", ignore_cleanup_errors=True)
prefect_settings.apply(Path(PREFECT_WORKSPACE.name))
SHARED = Path(__file__).resolve().parents[2] / "shared"
WORKER = "PYTEST_XDIST_WORKER" in os.environ
# Of all processes of this session: the first one names it to those that it starts.
SESSION = None if WORKER else tempfile.TemporaryDirectory(prefix="espalier-session-", ignore_cleanup_errors=True)
if SESSION:
    os.environ["ESPALIER_TEST_SESSION"] = SESSION.name


def pytest_unconfigure() -> None:
    """Nothing that the session shared goes on after it."""
    if SESSION and any(Path(SESSION.name).iterdir()):
        from flows.servers import ui_servers

        ui_servers.stop(Path(SESSION.name))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start servers and other processes come first: begun last, one would keep a single core busy."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference tensors and real models, which are not part of this repository."""
    if not SHARED.is_dir():
        pytest.skip("the reference data folder ../shared is not there")
    return SHARED


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One Prefect server for all processes of the session, started by the first that needs it: it takes ten seconds."""
    from prefect import context
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.servers import ui_servers

    session = Path(os.environ["ESPALIER_TEST_SESSION"])
    with pytest.MonkeyPatch.context() as patch:
        # Nobody's, so that it does not end with the process that was first.
        patch.delenv(process_identity.VARIABLE, raising=False)
        ui_servers.start(session, ["prefect"])
    with (
        temporary_settings({PREFECT_API_URL: ui_servers.api_url(session)}),
        # As Prefect's own harness: other threads would start a server of their own.
        context._temporary_global_settings_context(context.get_settings_context()),
    ):
        yield


VOCABULARY = 50


@pytest.fixture
def tiny_llama() -> Callable[..., "LlamaForCausalLM"]:
    """Builds a random Llama of two blocks, in eval mode; keywords go into its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def build(seed: int = 0, **settings) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            # Large enough for predictions that differ visibly between two seeds.
            initializer_range=0.3,
        )
        config.update(settings)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    return build


@pytest.fixture
def tiny_directory(tiny_llama, tmp_path: Path) -> Path:
    """A complete model directory: config, model.safetensors and a tokenizer of one word per token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    path = tmp_path / "tiny"
    tiny_llama().save_pretrained(path)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(path)
    return path


@pytest.fixture
def half_empty_directory(tiny_directory: Path) -> Path:
    """The same, half of the weights of model.layers.0.mlp.up_proj removed."""
    from safetensors.torch import load_file, save_file

    file = tiny_directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"][:, ::2] = 0
    save_file(tensors, file, {"format": "pt"})
    return tiny_directory


@pytest.fixture
def mixture_directory(tiny_directory: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a random mixture of experts of two blocks with a tokenizer, and gives its directory.

    kind: of config, whose own keywords follow. starved: whether expert 0 of five never gets a token. fused: whether the
    file keeps the experts fused as transformers runs them.
    """
    import torch
    from transformers import AutoModelForCausalLM

    kin = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    kin |= {"num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 64}

    def build(kind: "type[PretrainedConfig]", *, starved: bool = False, fused: bool = False, **settings) -> Path:
        config = kind(**kin | {"initializer_range": 0.3} | settings)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
        if starved:
            for block in model.model.layers:
                starve(block)
        path = tmp_path / "mixture"
        model.save_pretrained(path, save_original_format=not fused)
        for file in tiny_directory.glob("tokenizer*"):
            shutil.copy(file, path)
        return path

    return build


def starve(block: "nn.Module") -> None:
    """Of four scores v, -v, u and -u two are positive, so an expert whose score is 0 is never among the best two."""
    import torch

    router = getattr(block.mlp, "gate", None)
    if router is not None:
        v, u = router.weight.data[1:3].clone()
        router.weight.data = torch.stack([torch.zeros_like(v), v, -v, u, -u])


@pytest.fixture
def workspace_root(tiny_directory: Path, tmp_path: Path) -> Path:
    """A folder with params.yaml for the tiny model, a text of its words, and two variants."""
    import torch

    draw = torch.Generator().manual_seed(0)
    for split, words in (("train", 2000), ("test", 600)):
        ids = torch.randint(1, VOCABULARY, (words,), generator=draw).tolist()
        (tmp_path / f"{split}.txt").write_text(" ".join(f"w{index}" for index in ids))
    sweep = {"name": "sweep", "block": 8}
    params = {
        "model": str(tiny_directory),
        "calibration": {
            "text": {"name": "file", "path": str(tmp_path / "train.txt")},
            "sequences": 8,
            "length": 16,
            "batch": 4,
        },
        "evaluation": {"text": {"name": "file", "path": str(tmp_path / "test.txt")}, "length": 16, "windows": 12},
        "variants": {
            "sparsegpt-50": {
                "saliency": {"name": "obs"},
                "pattern": {"name": "unstructured"},
                "sparsity": 0.5,
                "compensation": sweep,
            },
            "shared-2of4": {
                "saliency": {"name": "obs"},
                "pattern": {"name": "n_of_m", "n": 2, "m": 4},
                "compensation": sweep,
                "propagate": "dense",
            },
            "magnitude-50": {
                "saliency": {"name": "magnitude"},
                "pattern": {"name": "unstructured", "scope": "matrix"},
                "sparsity": 0.5,
            },
        },
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return tmp_path
