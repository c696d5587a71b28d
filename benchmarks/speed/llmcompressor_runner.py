"""llm-compressor's turn: `python llmcompressor_runner.py JOB.json RESULT.json`, in the environment that has it.

A script that imports nothing of this project. It takes the same jobs as `benchmarks.common.runner` and writes the same
matrices in the same dtype, so that both results can be measured by one evaluation.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

MODIFIERS = {kind.__name__: kind for kind in (SparseGPTModifier, WandaPruningModifier, GPTQModifier)}


def compress(job: dict) -> dict:
    """Seconds of `oneshot` alone, its sequential pipeline; loading and writing are timed apart."""
    tokens = load_file(job["tokens"])["tokens"]
    method = dict(job["method"])
    modifier = MODIFIERS[method.pop("modifier")](ignore=["re:.*lm_head"], **method)
    started = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    loaded = time.perf_counter()
    oneshot(
        model=model,
        processor=tokenizer,
        # Without a mask of ones attention takes its causal path, which is faster and gives the same.
        dataset=Dataset.from_dict({"input_ids": tokens.tolist()}),
        recipe=modifier,
        pipeline="sequential",
        batch_size=job["batch"],
        num_calibration_samples=len(tokens),
        shuffle_calibration_samples=False,
        max_seq_length=tokens.shape[1],
    )
    compressed = time.perf_counter()
    _save(model, Path(job["model"]) / "model.safetensors", Path(job["out"]))
    written = time.perf_counter()
    return {"seconds": compressed - loaded, "load": loaded - started, "save": written - compressed}


def _save(model: torch.nn.Module, dense: Path, out: Path) -> None:
    """Write the matrices of the blocks under the names and in the dtypes of the dense file."""
    out.mkdir(parents=True, exist_ok=True)
    changed = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    state = model.state_dict()
    with safe_open(dense, framework="pt") as file:
        names = [name for name in file.keys() if name in changed and ".layers." in name]  # noqa: SIM118
        stored = {name: state[name].to(file.get_tensor(name).dtype).contiguous() for name in names}
    save_file(stored, out / "weights.safetensors")


def main(job_file: str, result_file: str) -> None:
    """Do the job, its warm-up first."""
    job = json.loads(Path(job_file).read_text())
    torch.set_num_threads(job["threads"])
    if job.get("warm"):
        compress(job["warm"])
    Path(result_file).write_text(json.dumps(compress(job)))


if __name__ == "__main__":
    main(*sys.argv[1:])
