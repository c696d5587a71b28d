"""Preview of a variant: what a recipe will make of a model, as far as that is known without making it."""

from pathlib import Path
from typing import Any

from pruning_core.checkpoint.layer_facts import LayerFacts
from pruning_core.checkpoint.model_files import read_config
from pruning_core.compress.method import Method
from pruning_core.compress.shares import target_of
from pruning_core.export.stored.previewed_model import PreviewedModel
from pruning_core.model.decoder import Decoder, matrix
from pruning_core.numerics.selection import rounded_count
from pruning_core.patterns.n_of_m import KeepNOfM
from pruning_core.patterns.unstructured import Unstructured
from pruning_core.settings.recipe import Recipe


def previewed(directory: Path, recipe: Recipe | None, *, trust_remote_code: bool = False) -> PreviewedModel:
    """The variant that a recipe will make of the model in `directory`; None: the model itself.

    Only headers of the weights files are read.

    Raises:
        InputError: the model cannot be read, or not be compressed.
    """
    if recipe is None:
        return PreviewedModel(directory)
    decoder = Decoder(directory, read_config(directory, trust_remote_code=trust_remote_code), trust_remote_code)
    layers = [
        _layer(recipe, name, decoder.stored_name(f"{name}.weight"), *matrix(module).shape)
        for index in range(len(decoder))
        for name, module in decoder.linears(index).items()
    ]
    method, structured = recipe.method, recipe.structured
    return PreviewedModel(
        directory,
        layers,
        **_grids(method),
        narrowed=structured is not None,
        uneven=structured is not None and structured.ranking.mode == "heterogeneous",
        scattered=_pattern(method) == "unstructured",
    )


def _grids(method: Method | None) -> dict[str, Any]:
    if method is None or method.quantizer is None:
        return {}
    quantizer = method.quantizer
    return {
        "group_size": quantizer.group_size,
        # A plugin's quantizer need not say so: then nothing is refused for it.
        "symmetric": getattr(quantizer, "symmetric", True),
        "permuted": quantizer.order == "activation" and method.compensates and not quantizer.static_groups,
    }


def _layer(recipe: Recipe, name: str, stored: str, rows: int, columns: int) -> LayerFacts:
    quantizer = recipe.method and recipe.method.quantizer
    return LayerFacts(
        name=name,
        stored=stored,
        rows=rows,
        columns=columns,
        removed=_most_removed(recipe, rows, columns),
        bits=quantizer.bits if quantizer else None,
        groups=-(-columns // (quantizer.group_size or columns)) if quantizer else None,
    )


def _most_removed(recipe: Recipe, rows: int, columns: int) -> int:
    """Weights of a matrix that become zero: all, where the recipe does not tell how many."""
    method, size = recipe.method, rows * columns
    if method is None or method.quantizer or recipe.allocation or recipe.recovery:
        return size
    pattern = method.pattern
    if isinstance(pattern, Unstructured) and pattern.rounding == "exact":
        return rounded_count(size, target_of(method))
    if isinstance(pattern, KeepNOfM) and pattern.ragged == "error":
        return size * (pattern.m - pattern.n) // pattern.m
    return size


def _pattern(method: Method | None) -> str | None:
    return getattr(method and method.pattern, "name", None)
