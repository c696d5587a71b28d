"""What llama.cpp computes from our GGUF files, against transformers on the same tokens."""

from pathlib import Path

import pytest
import torch
from gguf_models import TEXT, mixed, saved
from quantized_variants import exported, variant
from tokenizers import Tokenizer
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.evaluation import llama_cpp
from pruning_core.evaluation.perplexity import perplexity
from pruning_core.export import FORMATS
from pruning_core.export.gguf.header import read_gguf_header
from pruning_core.source import load_model

SHIPPED = Path(__file__).resolve().parents[3] / "models" / "stdlib-2.8m"
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 16
runs = pytest.mark.skipif(not llama_cpp.is_installed(), reason="llama-cpp-python is not installed (the extra gguf)")


def windows_of(vocabulary: int, count: int = 3, length: int = 48) -> torch.Tensor:
    return torch.randint(1, vocabulary, (count, length), generator=torch.Generator().manual_seed(0))


def file_of(model: StoredModel, out: Path, kind: str) -> Path:
    exported(FORMATS.build({"name": "gguf", "type": kind}), model, out)
    return out / "model.gguf"


@runs
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (LlamaConfig, {}),
        (LlamaConfig, {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        (LlamaConfig, {"head_dim": 32}),
        (LlamaConfig, {"rope_parameters": LLAMA3}),
        (MistralConfig, {"sliding_window": None}),
        (Qwen2Config, {}),
        (Qwen3Config, {"head_dim": 16}),
    ],
)
def test_llama_cpp_computes_the_losses_of_transformers_from_a_float32_file(tmp_path, kind, settings):
    directory = saved(kind, tmp_path / "in", **settings)
    windows = windows_of(290)
    found = llama_cpp.perplexity(file_of(StoredModel(directory), tmp_path / "out", "f32"), windows, threads=1)
    want = perplexity(load_model(directory), windows)
    torch.testing.assert_close(found.losses, want.losses, atol=2e-5, rtol=0)
    assert found.tokens == want.tokens and found.losses.dtype == torch.float64


@runs
@pytest.mark.parametrize(
    ("kind", "families", "settings"),
    [
        (LlamaConfig, ("mlp", "attention"), {}),
        (LlamaConfig, ("mlp",), {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
        (LlamaConfig, ("mlp", "query"), {"head_dim": 32, "rope_parameters": LLAMA3}),
        (MistralConfig, ("attention",), {"sliding_window": None, "head_dim": 16}),
        (Qwen2Config, ("mlp", "attention"), {}),
    ],
)
def test_llama_cpp_computes_the_losses_of_blocks_of_different_widths(tmp_path, kind, families, settings):
    directory = mixed(kind, tmp_path, families, **settings)
    windows = windows_of(290)
    path = file_of(StoredModel(directory), tmp_path / "out", "f32")
    assert read_gguf_header(path).keys["general.architecture"] == "deci"
    found, want = llama_cpp.perplexity(path, windows, threads=1), perplexity(load_model(directory), windows)
    torch.testing.assert_close(found.losses, want.losses, atol=2e-5, rtol=0)
    dense = perplexity(load_model(tmp_path / "even"), windows)
    assert (want.losses - dense.losses).abs().min() > 1e-3


@runs
@pytest.mark.parametrize("kind", ["f16", "q5_0", "q8_0"])
def test_llama_cpp_computes_with_the_weights_that_our_reader_reads(tmp_path, kind):
    source = saved(LlamaConfig, tmp_path / "in")
    model = variant(source, tmp_path / "v", bits=4, group_size=32)
    path = file_of(model, tmp_path / "out", kind)
    reference, weights = load_model(source), FORMATS.build({"name": "gguf", "type": kind}).read(tmp_path / "out")
    reference.load_state_dict({name: weights.load(name) for name in weights.names()}, strict=False)
    windows = windows_of(290)
    # llama.cpp rounds activations to 8 bits where weights are blocks, and to float16 where they are float16.
    tolerance = 1e-3 if kind == "f16" else 2e-2
    found = llama_cpp.perplexity(path, windows, threads=1, scored=20)
    torch.testing.assert_close(found.losses, perplexity(reference, windows, scored=20).losses, atol=tolerance, rtol=0)
    assert found.tokens == 60


@runs
@pytest.mark.parametrize("pieces", [False, True])
def test_llama_cpp_cuts_a_text_into_the_tokens_of_the_tokenizer(tmp_path, pieces):
    from llama_cpp import Llama

    directory = saved(LlamaConfig, tmp_path / "in", pieces=pieces)
    model = Llama(str(file_of(StoredModel(directory), tmp_path / "out", "f16")), vocab_only=True, verbose=False)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in (*TEXT, "  two  spaces\n\n\tand tabs", "don't 2024 été 漢字 🦊"):
        own = model.tokenize(text.encode(), add_bos=True, special=False)
        assert own == tokenizer.encode(text).ids


@runs
def test_the_shipped_model_has_its_perplexity_in_llama_cpp(tmp_path):
    windows = windows_of(2048, count=2, length=128)
    found = llama_cpp.perplexity(file_of(StoredModel(SHIPPED), tmp_path / "out", "f16"), windows, threads=1)
    assert found.mean_loss == pytest.approx(perplexity(load_model(SHIPPED), windows).mean_loss, abs=2e-3)


@runs
def test_speed_is_told_in_the_same_terms_as_that_of_a_model(tmp_path):
    path = file_of(StoredModel(saved(LlamaConfig, tmp_path / "in")), tmp_path / "out", "q8_0")
    seen = []
    speed = llama_cpp.measure_speed(
        path, prompt=16, generated=4, repeats=2, threads=1, progress=lambda done, total: seen.append((done, total))
    )
    facts = speed.facts()
    assert (facts["prompt"], facts["generated"], facts["dtype"], facts["device"]) == (16, 4, "q8_0", "cpu")
    assert 0 < facts["decode"]["lower_quartile"] <= facts["decode"]["median"] <= facts["decode"]["upper_quartile"]
    assert seen == [(1, 3), (2, 3), (3, 3)]


@runs
@pytest.mark.parametrize(
    ("windows", "sentence"),
    [
        (windows_of(290, length=65), "65 tokens do not fit into the context of .*, 64 tokens"),
        (windows_of(290) + 100, "the windows hold tokens outside 0 to 319"),
        (windows_of(290)[0], "at least one window of at least 2 tokens"),
    ],
)
def test_windows_that_the_model_cannot_take_are_refused(tmp_path, windows, sentence):
    path = file_of(StoredModel(saved(LlamaConfig, tmp_path / "in")), tmp_path / "out", "f16")
    with pytest.raises(InputError, match=sentence):
        llama_cpp.perplexity(path, windows)


def test_without_llama_cpp_the_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    with pytest.raises(InputError, match=r"pip install 'espalier\[gguf\]'"):
        llama_cpp.perplexity(tmp_path / "model.gguf", windows_of(10))
