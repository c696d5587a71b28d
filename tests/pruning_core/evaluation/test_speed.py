"""Speed: what is timed is what is reported, and impossible settings are refused."""

import json

import pytest
import torch
from transformers import LlamaForCausalLM

from pruning_core.errors import InputError
from pruning_core.evaluation.speed import Rate, measure_speed


def test_a_rate_is_tokens_over_seconds_with_its_quartiles():
    rate = Rate.of(100, [1.0, 2.0, 4.0, 5.0, 10.0])
    assert (rate.lower_quartile, rate.median, rate.upper_quartile) == (20.0, 25.0, 50.0)


def test_prefill_and_decode_are_timed_apart_and_the_warm_up_is_not_counted(tiny_llama, monkeypatch):
    model, clock, forwards = tiny_llama(), [0.0], []

    def work(_, args, kwargs):
        forwards.append(1)
        first_run = len(forwards) <= 5
        clock[0] += 100.0 if first_run else 0.5 if kwargs["input_ids"].shape[1] > 1 else 0.25

    model.register_forward_pre_hook(work, with_kwargs=True)
    monkeypatch.setattr("pruning_core.evaluation.speed.time.perf_counter", lambda: clock[0])
    speed = measure_speed(model, prompt=8, generated=4, batch=2, repeats=3, warmup=1)
    assert speed.prefill == Rate(*[2 * 8 / 0.5] * 3)
    assert speed.decode == Rate(*[2 * 4 / (4 * 0.25)] * 3)


def test_the_model_sees_the_prompt_once_and_then_one_token_at_a_time(tiny_llama):
    model, seen, progress = tiny_llama(), [], []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    measure_speed(
        model,
        prompt=5,
        generated=3,
        batch=2,
        repeats=2,
        warmup=1,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert seen == 3 * [(2, 5), (2, 1), (2, 1), (2, 1)]
    assert progress == [(1, 3), (2, 3), (3, 3)]


def test_decoding_with_the_cache_gives_the_tokens_of_greedy_generation(tiny_llama):
    model, seen = tiny_llama(), []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"].tolist()), with_kwargs=True)
    measure_speed(model, prompt=5, generated=4, repeats=2, warmup=0)
    decoded = [ids[0][0] for ids in seen[1:5]]
    model = tiny_llama()
    tokens = torch.arange(5)[None]
    for _ in range(4):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    assert decoded == tokens[0, 5:].tolist()


def test_the_conditions_are_reported_as_json(tiny_llama):
    facts = json.loads(json.dumps(measure_speed(tiny_llama(), prompt=4, generated=2, repeats=2).facts()))
    assert facts["device"] == "cpu"
    assert facts["dtype"] == "float32"
    assert facts["threads"] == torch.get_num_threads()
    assert (facts["batch"], facts["prompt"], facts["generated"], facts["repeats"]) == (1, 4, 2, 2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"prompt": 0}, "prompt must be at least 1"),
        ({"generated": 0}, "generated must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"repeats": 1}, "repeats must be at least 2"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"prompt": 30, "generated": 3}, "at most the model's context of 32"),
    ],
)
def test_impossible_settings_are_refused(tiny_llama, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        measure_speed(tiny_llama(), **({"prompt": 4, "generated": 2} | settings))


def test_a_model_without_a_cache_is_refused(tiny_llama):
    class Forgetful(LlamaForCausalLM):
        """Keeps nothing between tokens."""

        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.past_key_values = None
            return output

    model = Forgetful(tiny_llama().config).eval()
    with pytest.raises(InputError, match="Forgetful returns no key-value cache"):
        measure_speed(model, prompt=4, generated=2)
