"""What ONNX Runtime computes from our graphs, against transformers on the same tokens."""

from pathlib import Path

import pytest
import torch
from gguf_models import VOCABULARY, mixed, saved
from onnx_graphs import decoded, needs_onnx, prompts, traced_once
from quantized_variants import exported, variant
from transformers import (
    Gemma2Config,
    GemmaConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.evaluation import onnx_runtime
from pruning_core.evaluation.perplexity import perplexity
from pruning_core.evaluation.serving import Load, Served, measure_served
from pruning_core.export import FORMATS
from pruning_core.export.onnx import assembly
from pruning_core.export.onnx.packages import BLOCKED, FILE
from pruning_core.source import load_model

pytestmark = [needs_onnx, pytest.mark.slow]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 16
TABLE = "model.embed_tokens.weight"
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}


@pytest.fixture(autouse=True)
def tracing(monkeypatch) -> None:
    monkeypatch.setattr(assembly, "traced", traced_once)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A random Llama whose head is tied to its embedding."""
    return saved(LlamaConfig, tmp_path_factory.mktemp("runtime") / "source", tie_word_embeddings=True)


def written(model: StoredModel, out: Path, **options: str) -> Path:
    exported(FORMATS.build({"name": "onnx", **options}), model, out)
    return out


def expected(directory: Path, tokens: torch.Tensor) -> torch.Tensor:
    """All at once and without a cache: each step's cache and positions are checked too."""
    with torch.inference_mode():
        return load_model(directory)(input_ids=tokens, use_cache=False).logits


def agree(directory: Path, out: Path, batch: int = 2, length: int = 9, count: int = 8) -> None:
    tokens, logits = decoded(out, prompts(batch, length, VOCABULARY), count)
    wanted = expected(directory, tokens)
    assert logits.shape == (batch, length + count, VOCABULARY) and float(wanted.std()) > 0.1
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LlamaConfig, {"rope_parameters": LLAMA3, "attention_bias": True}),
        (Qwen2Config, {"tie_word_embeddings": True}),
        (MistralConfig, {"sliding_window": 6}),
        (Qwen3Config, {"head_dim": 32, "rope_parameters": YARN}),
        (Phi3Config, {"pad_token_id": 0}),
        (GemmaConfig, {"head_dim": 16}),
        (Gemma2Config, {"head_dim": 16, "sliding_window": 6}),
        (GPTNeoXConfig, {}),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_the_graph_gives_the_logits_of_transformers_in_prefill_and_at_every_decoded_token(tmp_path, kind, settings):
    directory = saved(kind, tmp_path / "source", **settings)
    agree(directory, written(StoredModel(directory), tmp_path / "out"))


@pytest.mark.parametrize(("batch", "length"), [(1, 7), (3, 7), (1, 1), (2, 30)])
def test_batch_and_lengths_are_free(source, tmp_path, batch, length):
    agree(source, written(StoredModel(source), tmp_path / "out", type="float32"), batch, length, 12)


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config], ids=lambda kind: kind.model_type)
def test_blocks_may_differ_in_width(tmp_path, kind):
    directory = mixed(kind, tmp_path)
    agree(directory, written(StoredModel(directory), tmp_path / "out"))


@pytest.mark.parametrize("kind", [GemmaConfig, LlamaConfig], ids=lambda kind: kind.model_type)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_table_that_rows_are_looked_up_of_keeps_its_sixteen_bits(tmp_path, kind, dtype):
    directory = saved(kind, tmp_path / "source", head_dim=16, dtype=dtype)
    out = written(StoredModel(directory), tmp_path / "out")
    agree(directory, out)
    own, weights = StoredModel(directory), FORMATS.build({"name": "onnx"}).read(out)
    assert own.checkpoint.dtype(TABLE) == dtype and weights.dtype(TABLE) == dtype
    assert all(torch.equal(weights.load(name), own.load(name).float()) for name in own.names())


def with_exact_activations(out: Path) -> Path:
    """The same graph, told not to round what it multiplies with."""
    import onnx

    proto = onnx.load(out / FILE, load_external_data=False)
    levels = [
        attribute
        for node in proto.graph.node
        if node.op_type == BLOCKED
        for attribute in node.attribute
        if attribute.name == "accuracy_level"
    ]
    assert levels and {level.i for level in levels} == {4}
    for level in levels:
        level.i = 1
    (out / FILE).write_bytes(proto.SerializeToString())
    return out


@pytest.mark.parametrize(
    "quantizer",
    [
        {"bits": 4, "group_size": 32},
        {"bits": 4, "group_size": 16, "symmetric": True},
        {"bits": 8},
        {"bits": 8, "symmetric": True, "group_size": 64},
        {"bits": 3, "symmetric": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, {"type": "int8", "head": "float32"}], ids=["own", "int8"])
def test_a_variants_own_integers_give_its_logits(source, tmp_path, quantizer, options):
    model = variant(source, tmp_path / "variant", **quantizer)
    out = written(model, tmp_path / "out", **options)
    tokens, rounded = decoded(out, prompts(2, 30, VOCABULARY), 0)
    wanted = expected(model.directory, tokens)
    # Activations are rounded to 8 bits.
    assert 0 < float((rounded - wanted).norm() / wanted.norm()) < 0.03
    agree(model.directory, with_exact_activations(out))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_rounded_weights_are_those_that_our_reader_reads(source, tmp_path, kind):
    out = written(StoredModel(source), tmp_path / "out", type=kind, head="float32")
    agree(out, with_exact_activations(out))


def test_losses_are_those_of_transformers(source, tmp_path):
    out = written(StoredModel(source), tmp_path / "out")
    windows = prompts(5, 24, VOCABULARY)
    seen: list[tuple[int, int]] = []
    found = onnx_runtime.perplexity(out, windows, lambda *done: seen.append(done), scored=10)
    want = perplexity(load_model(source), windows, scored=10)
    torch.testing.assert_close(found.losses, want.losses, rtol=0, atol=1e-5)
    assert found.tokens == want.tokens == 50 and seen == [(index + 1, 5) for index in range(5)]
    with pytest.raises(InputError, match=f"outside 0 to {VOCABULARY - 1}"):
        onnx_runtime.perplexity(out, windows + VOCABULARY)
    with pytest.raises(InputError, match="at least one window of at least 2 tokens"):
        onnx_runtime.perplexity(out, windows[:, :1])


def test_an_export_is_timed_at_every_batch_in_a_process_of_its_own(source, tmp_path):
    out = written(StoredModel(source), tmp_path / "out", type="int8")
    rows = measure_served(
        {"onnx": Served(out, "ONNX Runtime")}, Load(batches=(1, 2), prompt=8, generated=4, repeats=2, rounds=1)
    )
    assert [(row["engine"], row["batch"]) for row in rows] == [("ONNX Runtime", 1), ("ONNX Runtime", 2)]
    assert all(row[part]["lower_quartile"] > 0 for row in rows for part in ("prefill", "decode"))
    assert rows[0]["peak_bytes"] > rows[0]["before_bytes"]
