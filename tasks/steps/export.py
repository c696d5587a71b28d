"""Step: export a variant for serving, read it again and compare it weight by weight."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruning_core.checkpoint.layer_facts import layers_in
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import ComputationError, InputError
from pruning_core.export import FORMATS, Format, Tensors
from pruning_core.export.stored.recognise import weight_bytes
from pruning_core.progress import Progress
from tasks.engine.step import Context, step
from tasks.progress import progress
from tasks.steps.source_model import KIND, companion_files
from tasks.store.artifact import Artifact
from tasks.store.canonical_json import write_json


def stored_model(model: Artifact) -> StoredModel:
    """A variant, or the dense model, as formats read it."""
    return StoredModel(model.path, [] if model.kind == KIND else layers_in(model.facts))


@dataclass(frozen=True, kw_only=True)
class ExportParams:
    """`format` is {name, options}."""

    format: dict[str, Any]


def _modules(params: ExportParams) -> list[str]:
    return [FORMATS.module(params.format["name"])]


@step("export", modules=_modules)
def export(params: ExportParams, inputs: dict[str, Artifact], out: Path, context: Context) -> dict[str, Any]:
    """The deployable directory of a variant, verified.

    inputs: model (a variant, or the dense model).
    scratch: the export while it is written and verified; a killed run goes on at the shard or tensor it was in.
    writes: config and tokenizer of the model, and what the format makes of its weights.
    facts: `format` {name, options}, `written` (what the format tells), `file_bytes`, `parameters` (of the model as
        stored), `bits_per_weight` (all of the weights' bytes over them) and `verified`.

    Raises:
        InputError: the format cannot express the model.
        ComputationError: what was written does not give the model back, or a removed weight has come back.
    """
    model, file_format = stored_model(inputs["model"]), FORMATS.build(params.format, "format")
    file_format.check(model)
    place = context.scratch / "export"
    try:
        written = _write(file_format, model, place)
        verified = verify(file_format, model, file_format.read(place), progress("verifying"))
    except (InputError, ComputationError):
        # What was written wrongly is nothing to go on from.
        context.store.discard_scratch(context.key)
        raise
    place.replace(out)
    size = weight_bytes(out)
    parameters = model.checkpoint.parameters
    return {
        "format": params.format,
        "written": written,
        "file_bytes": size,
        "parameters": parameters,
        "bits_per_weight": 8 * size / parameters,
        "verified": verified,
    }


def _write(file_format: Format, model: StoredModel, place: Path) -> dict[str, Any]:
    """Write the export into `place`, or finish what a killed run began there; returns the format's notes."""
    notes = place.with_name("written.json")
    if not place.is_dir():
        # The notes of an export that had been moved when the run was killed.
        notes.unlink(missing_ok=True)
    if notes.is_file():
        return json.loads(notes.read_text(encoding="utf-8"))
    place.mkdir(exist_ok=True)
    if file_format.recognises(place) and not any(place.glob(".*")):
        # Killed between the last file and the notes.
        shutil.rmtree(place)
        place.mkdir()
    for file in companion_files(model.directory):
        shutil.copyfile(file, place / file.name)
    write_json(notes, file_format.write(model, place, progress("export")))
    return json.loads(notes.read_text(encoding="utf-8"))


def verify(file_format: Format, model: StoredModel, export: Tensors, report: Progress) -> dict[str, Any]:
    """Every weight of an export beside the variant's, read one at a time.

    Returns:
        `tensors`, `equal` (how many are so bit for bit), `relative_change` (norm of all differences over that of the
        weights), `largest_change`, and `zeros` of the pruned matrices {`before`, `after`: those that still are}.

    Raises:
        ComputationError: a tensor that is missing or of another shape, any difference in an exact format, or a removed
            weight that is not zero.
    """
    removed = {matrix.stored: matrix for matrix in model.matrices if matrix.removed}
    names, equal, largest, squares, total, gone, still = model.names(), 0, 0.0, 0.0, 0.0, 0, 0
    if missing := sorted(set(names) - set(export.names())):
        raise ComputationError(f"the {file_format.name} export lacks {missing[0]}")
    for done, name in enumerate(names, start=1):
        stored, read = model.load(name), export.load(name)
        if read.shape != stored.shape:
            raise ComputationError(f"{name} has the shape {list(read.shape)} in the export, {list(stored.shape)} here")
        # A reader gives packed weights in float32, and whoever computes rounds them to the model's dtype.
        same = torch.equal(_bits(read.to(stored.dtype)), _bits(stored))
        if file_format.exact and not same:
            raise ComputationError(f"{name} does not come back bit for bit from the {file_format.name} export")
        equal += same
        before, after = stored.double(), read.double()
        if not after.isfinite().all():
            raise ComputationError(f"{name} holds NaN or infinite values in the {file_format.name} export")
        difference = after - before
        largest = max(largest, float(difference.abs().max())) if difference.numel() else largest
        squares, total = squares + float(difference.square().sum()), total + float(before.square().sum())
        if name in removed:
            zeros = before == 0
            gone, still = gone + int(zeros.sum()), still + int((zeros & (after == 0)).sum())
        report(done, len(names))
    if still < gone:
        raise ComputationError(
            f"{gone - still} of {gone} zeros of the pruned matrices have other values in the {file_format.name} "
            "export; choose a format or type that holds zero exactly"
        )
    return {
        "tensors": len(names),
        "equal": equal,
        "relative_change": (squares / total) ** 0.5 if total else 0.0,
        "largest_change": largest,
        "zeros": {"before": gone, "after": still},
    }


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
