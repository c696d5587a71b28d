"""The serving benchmark: what is quantized by ONNX Runtime itself; engines that are not there are left out."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.common.launch import ROOT
from benchmarks.serving import __main__
from pruning_core.evaluation import llama_cpp, onnx_runtime
from pruning_core.export.onnx import packages
from pruning_core.export.onnx.packages import FILE

needs_onnx = pytest.mark.skipif(
    not packages.is_installed(), reason=f"not all of {', '.join(packages.PACKAGES)} are installed"
)
VOCABULARY, BLOCKS = 96, 2


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A random Llama with grouped heads, its head tied to the embedding; as wide as two blocks of 4-bit weights."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.1,
        tie_word_embeddings=True,
    )
    path = tmp_path_factory.mktemp("source")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def exported(source: Path) -> Path:
    """The same as ONNX in float32."""
    return __main__.written(source, "onnx", "float32")


def logits(path: Path) -> torch.Tensor:
    """[2, 20, vocabulary] of the same tokens every time."""
    session = onnx_runtime.opened(path)
    tokens = torch.randint(VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
    return torch.from_numpy(onnx_runtime.step(session, tokens.numpy(), onnx_runtime.empty(session, 2))[0].copy())


@needs_onnx
@pytest.mark.slow
def test_dynamic_quantization_takes_every_matrix_the_head_too_and_says_nothing(exported: Path, tmp_path: Path):
    import onnx

    path = tmp_path / "dynamic"
    code = (
        "import logging, sys; from pathlib import Path; from benchmarks.serving import onnx\n"
        "onnx.to_int8(*map(Path, sys.argv[1:]))\n"
        "print(logging.getLogger().handlers, logging.getLogger().level, logging.root.manager.disable)"
    )
    command = [sys.executable, "-c", code, str(exported), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[] 30 0\n", "")
    kinds = [node.op_type for node in onnx.load(path / FILE, load_external_data=False).graph.node]
    assert kinds.count("MatMulInteger") == 7 * BLOCKS + 1 and "MatMul" not in kinds
    plain, rounded = logits(exported), logits(path)
    assert 0 < float((rounded - plain).norm() / plain.norm()) < 0.06


def test_without_its_packages_an_engine_is_left_out_and_told(monkeypatch, capsys, tmp_path: Path):
    for module in (llama_cpp, packages):
        monkeypatch.setattr(module, "is_installed", lambda: False)
    assert __main__.gguf_rows(tmp_path, tmp_path) == __main__.onnx_rows(tmp_path, tmp_path) == []
    gguf, onnx = capsys.readouterr().err.splitlines()
    assert gguf == "GGUF is left out: llama-cpp-python is not installed; pip install 'espalier[gguf]'"
    assert onnx.endswith("pip install 'espalier[onnx]'") and not list(tmp_path.iterdir())


def test_the_page_has_a_row_per_model_with_its_memory_and_what_the_libraries_had():
    rate = {"median": 10.0, "lower_quartile": 9.0, "upper_quartile": 11.0}
    row = {"model": "dense", "engine": "transformers", "batch": 1, "prefill": rate, "decode": rate}
    row |= {"first_token": {"median": 0.5}, "peak_bytes": 600_000_000, "before_bytes": 400_000_000}
    own = {"date": "today", "processor": "one", "cores": 2, "threads": 2, "python": "3.11", "load": 0.1}
    facts = {
        "machine": own | {"versions": {"torch": "2"}},
        "titles": {"dense": "dense", "fast": "fast, ONNX int8"},
        "bytes": {"dense": 107_000_000, "fast": 60_000_000},
        "load": {"prompt": 64, "generated": 16, "rounds": 2, "repeats": 3},
        "rows": [row, row | {"model": "fast", "engine": "ONNX Runtime", "decode": rate | {"median": 25.0}}],
    }
    [line] = [line for line in __main__.page(facts).splitlines() if line.startswith("| fast")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        *("fast, ONNX int8", "ONNX Runtime", "60", "10 (9 to 11)", "1.00", "25 (9 to 11)", "2.50", "500", "600 (400)")
    ]
