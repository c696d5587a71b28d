"""Calibration texts that are not what a model is judged on, made from what every machine has."""

import ast
import io
import json
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from pruning_core.errors import InputError
from pruning_core.text import TEXTS
from tasks.store.canonical_json import digest_of
from tasks.workspace.workspace import HIDDEN

FOLDER = f"{HIDDEN}/study-texts"
OWN = "own"
EVERY = 4
"""Of so many files one gives its comments, which is text enough."""
SPARE = 4
"""Random tokens for each one that calibration takes, so that every seed finds others."""


@dataclass(frozen=True)
class CalibrationText:
    """One text to calibrate on."""

    name: str
    title: str
    text: dict[str, Any] | None = field(repr=False)
    """As `calibration.text` has it; None: what the settings say."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings that choose it."""
        return () if self.text is None else (f"calibration.text={json.dumps(self.text)}",)


def texts(root: Path, tokenizer: PreTrainedTokenizerBase, tokens: int, file: Path | None) -> list[CalibrationText]:
    """The settings' own text first, then the others, written below the workspace.

    Args:
        root: the workspace.
        tokenizer: whose tokens are drawn for the random text.
        tokens: how many calibration takes.
        file: one more text of the caller's.

    Raises:
        InputError: the file is no text.
    """
    given = None if file is None else {"name": "file", "path": str(file.resolve())}
    if given:
        # Told before the texts are made, which takes a while.
        TEXTS.build(given).read()
    library = TEXTS.build({"name": "stdlib", "split": "train"}).read().texts[::EVERY]
    calibration_texts = [
        CalibrationText(OWN, "in domain", None),
        CalibrationText("comments", "comments only", _written(root, "comments", comments(library))),
        CalibrationText("manual", "Python's manual", _written(root, "manual", manual())),
        CalibrationText("random", "random tokens", _written(root, "random", [random_text(tokenizer, SPARE * tokens)])),
    ]
    if given:
        calibration_texts.append(CalibrationText("file", file.name, given))
    return calibration_texts


def comments(sources: Iterable[str]) -> Iterator[str]:
    """Of each Python file that has any, its docstrings and comments, without the code."""
    for source in sources:
        if prose := "\n\n".join(_prose(source)):
            yield prose


def _prose(source: str) -> Iterator[str]:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node)):
            yield docstring
    lines = tokenize.generate_tokens(io.StringIO(source).readline)
    remarks = [token.string.lstrip("#! ") for token in lines if token.type == tokenize.COMMENT]
    if remarks:
        yield "\n".join(remarks)


def manual() -> list[str]:
    """The chapters of the language manual that Python's own help shows; no split of the library holds them.

    Raises:
        InputError: this Python was installed without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise InputError(
            "this Python has no pydoc_data, the text of its help; install Python's whole library"
        ) from None
    return [topics[name] for name in sorted(topics)]


def random_text(tokenizer: PreTrainedTokenizerBase, tokens: int, seed: int = 0) -> str:
    """About so many tokens, each drawn evenly from the vocabulary; broken bytes are left out."""
    special = set(tokenizer.all_special_ids)
    plain = torch.tensor([token for token in range(len(tokenizer)) if token not in special])
    drawn = torch.randint(len(plain), (tokens,), generator=torch.Generator().manual_seed(seed))
    return tokenizer.decode(plain[drawn].tolist()).replace("\N{REPLACEMENT CHARACTER}", "")


def _written(root: Path, name: str, documents: Iterable[str]) -> dict[str, Any]:
    """The text source that reads the documents back; the file's name tells its content."""
    lines = [json.dumps({"text": text}) for text in documents]
    path = Path(FOLDER) / f"{name}-{digest_of(lines)[:16]}.jsonl"
    place = root / path
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        # By rename: a run that is stopped leaves no half text under this name.
        unfinished = place.with_suffix(".tmp")
        unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
        unfinished.replace(place)
    return {"name": "jsonl", "path": path.as_posix()}
