"""The serving benchmark: ONNX Runtime computes what transformers does; engines that are not there are left out."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import serving, serving_onnx
from benchmarks.launch import ROOT
from pruning_core.errors import InputError
from pruning_core.evaluation import llama_cpp
from pruning_core.evaluation.serving import Load, Served, measure_served

needs_onnx = pytest.mark.skipif(
    not serving_onnx.is_installed(), reason=f"not all of {', '.join(serving_onnx.PACKAGES)} are installed"
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
def exported(source: Path, tmp_path_factory) -> Path:
    """The same as ONNX in float32."""
    return serving_onnx.export(source, tmp_path_factory.mktemp("onnx") / "float32")


def decoded(path: Path, prompt: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy by ONNX Runtime: the tokens [batch, prompt + count], and the logits that it gave at each of them."""
    session = serving_onnx.opened(path)
    tokens, past = prompt.numpy(), serving_onnx.empty(session, len(prompt))
    known, logits = [tokens], []
    for _ in range(count + 1):
        found, past = serving_onnx.step(session, tokens, past)
        # The runtime may use the memory of its answer again.
        logits.append(found.copy())
        tokens = found[:, -1:].argmax(-1)
        known.append(tokens)
    return torch.from_numpy(np.concatenate(known[:-1], 1)), torch.from_numpy(np.concatenate(logits, 1))


def prompts(batch: int, length: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("batch", "length"), [(1, 7), (3, 7), (1, 1), (2, 30)])
def test_onnx_runtime_gives_the_logits_of_transformers_in_prefill_and_at_every_decoded_token(
    source: Path, exported: Path, batch: int, length: int
):
    tokens, logits = decoded(exported, prompts(batch, length), 12)
    model = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.inference_mode():
        # All at once and without a cache: each step's cache and positions are checked too.
        expected = model(input_ids=tokens, use_cache=False).logits
    assert logits.shape == (batch, length + 12, VOCABULARY) and float(expected.std()) > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("name", "operator", "close"), [("int8", "MatMulInteger", 0.06), ("int4", "MatMulNBits", 0.3)])
def test_every_matrix_is_quantized_the_head_too(exported: Path, tmp_path: Path, name: str, operator: str, close: float):
    import onnx

    path = getattr(serving_onnx, f"to_{name}")(exported, tmp_path / name)
    kinds = [node.op_type for node in onnx.load(path / serving_onnx.FILE, load_external_data=False).graph.node]
    assert kinds.count(operator) == 7 * BLOCKS + 1 and "MatMul" not in kinds
    files = {folder: sum(file.stat().st_size for file in folder.glob("*.data")) for folder in (exported, path)}
    assert files[path] < files[exported] / 2
    plain, rounded = (decoded(folder, prompts(2, 20), 0)[1] for folder in (exported, path))
    assert 0 < float((rounded - plain).norm() / plain.norm()) < close


@needs_onnx
@pytest.mark.slow
def test_quantizing_says_nothing_and_leaves_logging_as_it_was(exported: Path, tmp_path: Path):
    code = (
        "import logging, sys; from pathlib import Path; from benchmarks import serving_onnx as one\n"
        "source, out = map(Path, sys.argv[1:])\n"
        "one.to_int8(source, out / 'int8'); one.to_int4(source, out / 'int4')\n"
        "print(logging.getLogger().handlers, logging.getLogger().level, logging.root.manager.disable)"
    )
    command = [sys.executable, "-c", code, str(exported), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[] 30 0\n", "")


@needs_onnx
@pytest.mark.slow
def test_an_export_is_timed_at_every_batch_in_a_process_of_its_own(exported: Path):
    load = Load(batches=(1, 2), prompt=8, generated=4, repeats=2, rounds=1)
    rows = measure_served({"onnx": Served(exported, "ONNX Runtime", module="benchmarks.serving_onnx")}, load)
    assert [(row["engine"], row["batch"]) for row in rows] == [("ONNX Runtime", 1), ("ONNX Runtime", 2)]
    assert all(row[part]["lower_quartile"] > 0 for row in rows for part in ("prefill", "decode"))
    assert rows[0]["peak_bytes"] > rows[0]["before_bytes"]


def test_without_its_packages_an_engine_is_left_out_and_told(monkeypatch, capsys, tmp_path: Path):
    for module in (llama_cpp, serving_onnx):
        monkeypatch.setattr(module, "is_installed", lambda: False)
    assert serving.gguf_rows(tmp_path, tmp_path) == serving.onnx_rows(tmp_path, tmp_path) == []
    gguf, onnx = capsys.readouterr().err.splitlines()
    assert gguf == "GGUF is left out: llama-cpp-python is not installed; pip install 'espalier[gguf]'"
    assert onnx.endswith("pip install onnx onnxruntime onnxscript") and not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="pip install onnx onnxruntime onnxscript"):
        serving_onnx.opened(tmp_path)


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
    [line] = [line for line in serving.page(facts).splitlines() if line.startswith("| fast")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [
        *("fast, ONNX int8", "ONNX Runtime", "60", "10 (9 to 11)", "1.00", "25 (9 to 11)", "2.50", "500", "600 (400)")
    ]
