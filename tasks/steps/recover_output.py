"""A trained model as an artifact: its masks, its weights in the checkpoint's dtype, and its facts."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pruning_core.checkpoint.bit_masks import pack_mask, unpack_mask
from pruning_core.checkpoint.checkpoint import INDEX_FILE, Checkpoint
from pruning_core.checkpoint.file_names import MASKS
from pruning_core.checkpoint.layer_facts import LayerFacts, counted
from pruning_core.checkpoint.sharded_writer import ShardedWriter
from pruning_core.errors import ComputationError, InputError
from pruning_core.model.decoder import matrix
from pruning_core.model.whole_model import WholeDecoder
from pruning_core.numerics.finite import all_finite
from pruning_core.recovery.training.trainable_model import Recovered, TrainableModel, lost_zeros
from tasks.steps.source_model import KIND, companion_files
from tasks.store.artifact import Artifact
from tasks.store.directories import MANIFEST, RUN

DENSE = 0.01
"""A model without masks of which more is zero was pruned elsewhere: its zeros are its masks."""


def masks_of(model: Artifact, decoder: WholeDecoder) -> dict[str, Tensor]:
    """Matrix name -> [out, in] bool, as `TrainableModel` has them: the stored masks, or the zeros of a checkpoint.

    Raises:
        InputError: the masks are not of this model.
    """
    matrices = {name: matrix(one) for index in range(len(decoder)) for name, one in decoder.linears(index).items()}
    if (model.path / MASKS).is_file():
        bits = load_file(model.path / MASKS)
        if other := sorted(bits.keys() ^ matrices.keys()):
            raise InputError(f"{model.path / MASKS} is of another model: {other[0]} is in one of the two only")
        return {name: unpack_mask(bits[name], one.shape[1]) for name, one in matrices.items()}
    zeros = sum(int((one == 0).sum()) for one in matrices.values())
    if zeros <= DENSE * sum(one.numel() for one in matrices.values()):
        return {}
    return {name: (one != 0).cpu() for name, one in matrices.items()}


def write_model(model: Artifact, subject: TrainableModel, recovered: Recovered, out: Path) -> dict[str, Any]:
    """Write the model with what `model` has beside its weights; returns its facts (see `tasks.steps.assemble`).

    Raises:
        ComputationError: a weight that its dtype cannot hold, or a removed one that is not zero.
    """
    for file in _beside_weights(model):
        shutil.copyfile(file, out / file.name)
    checkpoint = Checkpoint(model.path)
    tensors = _stored_tensors(subject.decoder, recovered)
    zeros = 0
    with ShardedWriter(out) as writer:
        for name in checkpoint.names():
            tensor = tensors[name] if name in tensors else checkpoint.load(name)
            zeros += tensor.numel() - int(tensor.count_nonzero())
            writer.add(name, tensor)
    if recovered.masks:
        save_file({name: pack_mask(keep) for name, keep in recovered.masks.items()}, out / MASKS)
    return _facts(model, checkpoint, _layers(subject, recovered), zeros)


def _beside_weights(model: Artifact) -> list[Path]:
    if model.kind == KIND:
        return companion_files(model.path)
    files = sorted(file for file in model.path.iterdir() if file.is_file() and file.suffix != ".safetensors")
    return [file for file in files if file.name not in (MANIFEST, RUN, INDEX_FILE)]


def _stored_tensors(decoder: WholeDecoder, recovered: Recovered) -> dict[str, Tensor]:
    """Stored name -> trained tensor in the checkpoint's dtype and layout."""
    trained = {id(decoder.model.get_parameter(name)) for name in recovered.changed}
    tensors: dict[str, Tensor] = {}
    # Tied parameters under every name: a checkpoint may store the head beside the embedding.
    for name, parameter in decoder.model.named_parameters(remove_duplicate=False):
        # Most checkpoints store it once; the other name is not known then.
        with suppress(KeyError):
            if id(parameter) in trained:
                value = round_to_stored(decoder, name, parameter.detach())
                decoder.store(name, value, tensors)
    return tensors


def round_to_stored(decoder: WholeDecoder, name: str, value: Tensor) -> Tensor:
    """A parameter as the checkpoint's dtype holds it, on the CPU.

    Raises:
        ComputationError: NaN, or out of the dtype's range.
    """
    value = value.to(decoder.checkpoint.dtype(decoder.stored_name(name))).cpu()
    if not all_finite(value):
        raise ComputationError(
            f"{name} holds values after recovery that {value.dtype} cannot hold; lower learning_rate"
        )
    return value


def _layers(subject: TrainableModel, recovered: Recovered) -> list[LayerFacts]:
    layers = []
    for name, module in subject.matrices().items():
        weight = round_to_stored(subject.decoder, f"{name}.weight", matrix(module).detach())
        keep = recovered.masks.get(name, torch.ones(weight.shape, dtype=torch.bool))
        if left := lost_zeros(weight, keep):
            raise ComputationError(f"{name}: {left} removed weights are not zero after recovery")
        # Without a loss: of a model that was trained since it was pruned the one in H says nothing.
        layers.append(
            LayerFacts(
                name=name,
                stored=subject.decoder.stored_name(f"{name}.weight"),
                rows=weight.shape[0],
                columns=weight.shape[1],
                removed=int((~keep).sum()),
                zeros=int((weight == 0).sum()),
            )
        )
    return layers


def _facts(model: Artifact, checkpoint: Checkpoint, layers: list[LayerFacts], zeros: int) -> dict[str, Any]:
    before = {} if model.kind == KIND else model.facts
    if before and not any(layer.removed for layer in layers):
        # A model that was made smaller has no masks, and its shares and sizes stay what its step reported.
        return before | {"parameters": before["parameters"] | {"zeros": zeros}}
    return before | counted(layers, checkpoint, zeros)
