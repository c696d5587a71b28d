"""Train the small language model that ships with Espalier, and export any of its checkpoints."""

import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import torch
import typer
from corpus import Batches, pack_documents, train_tokenizer, transformers_tokenizer
from export import write_model
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from tokenizers import Tokenizer
from training import Settings, State, checkpoints, fresh, restore, train

from pruning_core.errors import ComputationError, InputError
from pruning_core.text import TEXTS, Documents
from pruning_core.text.tokenized.windows import evaluation_windows

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
DirectoryOption = Annotated[Path, typer.Option(help="Where tokenizer and checkpoints are kept.")]
TextOption = Annotated[
    Path | None,
    typer.Option(help="Folder with train.txt, validation.txt and test.txt; default: the standard library."),
]


def documents(text: Path | None, split: str) -> Documents:
    """The documents of a split: the standard library's, or a file's."""
    if text is None:
        return TEXTS.build({"name": "stdlib", "split": split}).read()
    return TEXTS.build({"name": "file", "path": str(text / f"{split}.txt")}).read()


def tokenizer_in(directory: Path, text: Path | None, vocabulary: int) -> Tokenizer:
    """The run's tokenizer, trained on the train split when the run has none yet."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / "tokenizer.partial.json"
        train_tokenizer(documents(text, "train").texts, vocabulary).save(str(partial))
        partial.rename(path)
    return Tokenizer.from_file(str(path))


def validation_windows(directory: Path, text: Path | None, settings: Settings) -> torch.Tensor:
    """At most `settings.validation_windows` windows, evenly spread over the validation split."""
    tokenizer = transformers_tokenizer(directory / "tokenizer.json", settings.context)
    split = documents(text, "validation")
    tokens = evaluation_windows(split, tokenizer, length=settings.context, windows=None).tokens
    return tokens[:: max(1, len(tokens) // settings.validation_windows)][: settings.validation_windows]


def settings_with(overrides: Sequence[str]) -> Settings:
    """The default settings with `key=value` changes.

    Raises:
        InputError: not key=value, an unknown key, or not a number of the setting's type.
    """
    kinds = {each.name: type(each.default) for each in fields(Settings)}
    values: dict[str, int | float] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or key not in kinds:
            raise InputError(f"--set {override} is not key=value with a key of {', '.join(kinds)}")
        try:
            values[key] = kinds[key](value)
        except ValueError:
            raise InputError(f"--set {override}: {value!r} is not a number ({kinds[key].__name__})") from None
    return Settings(**values)


@app.command("run")
def run(
    directory: DirectoryOption,
    changes: Annotated[
        list[str], typer.Option("--set", help=f"key=value, repeatable; keys and defaults: {Settings()}")
    ] = [],  # noqa: B006 (typer copies it)
    text: TextOption = None,
    threads: Annotated[int, typer.Option(help="CPU threads; the result is reproducible for 1.")] = 1,
) -> None:
    """Train, resuming the newest checkpoint. Example: run --directory /tmp/training --set steps=7200"""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    settings = settings_with(changes)
    tokenizer = tokenizer_in(directory, text, settings.vocabulary)
    batches = Batches(
        pack_documents(documents(text, "train"), tokenizer), settings.context, settings.rows, settings.seed
    )
    validation = validation_windows(directory, text, settings)
    with Reporter(settings) as report:
        train(settings, batches, validation, directory, report)


@app.command("export")
def export_checkpoint(
    directory: DirectoryOption,
    to: Annotated[Path, typer.Option(help="Folder of the model; what it holds is replaced.")],
    step: Annotated[int | None, typer.Option(help="Checkpoint to export; default: the newest.")] = None,
    text: TextOption = None,
) -> None:
    """Write a checkpoint as a Hugging Face model with its card. Example: export --directory /tmp/t --to m"""
    by_step = {int(path.name.removeprefix("step-")): path for path in checkpoints(directory)}
    if not by_step or (step is not None and step not in by_step):
        steps = ", ".join(map(str, by_step)) or "none"
        raise InputError(f"{directory} has no checkpoint of step {step or 'any'}; it has: {steps}")
    checkpoint = by_step[max(by_step) if step is None else step]
    facts = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    settings = Settings(**facts["settings"])
    state = fresh(settings)
    restore(state, checkpoint, settings)
    splits = {split: documents(text, split) for split in ("train", "validation", "test")}
    tokenizer = transformers_tokenizer(directory / "tokenizer.json", settings.context)
    Console().print(write_model(state, settings, tokenizer, splits, to))


class Reporter:
    """A progress bar on a terminal; elsewhere a line every 50 steps."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.console = Console()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console)

    def __enter__(self) -> "Reporter":
        if self.console.is_terminal:
            self.bar.start()
        self.task = self.bar.add_task("training", total=self.settings.steps)
        return self

    def __exit__(self, *reason: object) -> None:
        self.bar.stop()

    def __call__(self, state: State, loss: float) -> None:
        latest = state.curve[-1]["validation_loss"] if state.curve else float("nan")
        note = f"loss {loss:.3f}, validation {latest:.3f}"
        self.bar.update(self.task, completed=state.step, description=note)
        if not self.console.is_terminal and state.step % 50 == 0:
            print(f"step {state.step}/{self.settings.steps}: {note}", flush=True)


def main() -> None:
    """Run the command; wrong input is one sentence and exit code 2, a failed computation exit code 1."""
    try:
        app(standalone_mode=True)
    except InputError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except ComputationError as error:
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
