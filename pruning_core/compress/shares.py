"""How much of each matrix goes: what an allocation decides and a method applies."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import torch

from pruning_core.compress.method import Method
from pruning_core.errors import InputError, required
from pruning_core.model.decoder import Decoder, matrix
from pruning_core.numerics.selection import rounded_count
from pruning_core.patterns import PATTERNS
from pruning_core.patterns.n_of_m import KeepNOfM
from pruning_core.patterns.unstructured import Unstructured

Unit = Literal["zeros", "n"]
"""zeros: weights removed; n: weights kept of every m consecutive inputs, m as in the pattern."""


@dataclass(frozen=True)
class Matrix:
    """One prunable matrix [rows, columns] of a model."""

    name: str
    """Full module name, as in `Decoder.linears`."""
    block: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Its number of weights."""
        return self.rows * self.columns


def matrices_of(decoder: Decoder) -> tuple[Matrix, ...]:
    """The prunable matrices of a model, in its order; no weight is read."""
    return tuple(
        Matrix(name, index, *shape)
        for index in range(len(decoder))
        for name, module in decoder.linears(index).items()
        for shape in [torch.Size(matrix(module).shape)]
    )


def unit_of(method: Method) -> Unit:
    """What the shares of a method's matrices count.

    Raises:
        InputError: its pattern cannot be given a share per matrix that holds to the weight.
    """
    pattern = method.pattern
    described = "no pattern" if pattern is None else f"pattern {pattern.name}"
    if isinstance(pattern, Unstructured):
        if pattern.rounding == "exact":
            return "zeros"
        described += f" with rounding {pattern.rounding}"
    if isinstance(pattern, KeepNOfM):
        if pattern.ragged == "error":
            return "n"
        described += f" with ragged {pattern.ragged}"
    raise InputError(
        "an allocation needs the pattern unstructured with rounding exact, or n_of_m with ragged error; it has "
        f"{described}"
    )


def target_of(method: Method) -> float:
    """The fraction of weights that a method removes in all; its pattern is one that `unit_of` knows."""
    if isinstance(method.pattern, KeepNOfM):
        return 1 - method.pattern.n / method.pattern.m
    return required(method.sparsity, "the sparsity of a pattern that takes one")


@dataclass(frozen=True)
class Shares:
    """How much of each matrix goes, in whole weights or whole levels, so that a budget is met or not, never nearly."""

    unit: Unit
    values: dict[str, int]
    """Matrix name -> zeros, or n."""

    def applied(self, method: Method, matrix_name: str, size: int) -> Method:
        """`method` with the matrix's own sparsity or n; a matrix of `size` weights that loses none stays dense.

        Raises:
            InputError: nothing is known of the matrix.
        """
        if matrix_name not in self.values:
            raise InputError(f"the allocation says nothing of {matrix_name}; it was made for another model")
        value = self.values[matrix_name]
        if self.unit == "zeros":
            return replace(method, sparsity=value / size)
        pattern = _n_of_m(method)
        if value == pattern.m:
            # n:m needs n < m. Chosen beforehand for the whole matrix, removing nothing costs next to nothing.
            nothing = PATTERNS.build({"name": "unstructured", "scope": "matrix"})
            return replace(method, pattern=nothing, sparsity=0.0)
        mixed = {"name": "n_of_m", "n": value, "m": pattern.m, "ragged": pattern.ragged}
        return replace(method, pattern=PATTERNS.build(mixed))

    def removed(self, matrices: Iterable[Matrix], m: int | None = None) -> int:
        """Weights removed of these matrices in all; `m` where the unit is n."""
        if self.unit == "zeros":
            return sum(self.values[matrix.name] for matrix in matrices)
        each = required(m, "the m of n:m")
        return sum(matrix.rows * (matrix.columns // each) * (each - self.values[matrix.name]) for matrix in matrices)

    def of(self, names: Iterable[str]) -> "Shares":
        """The part that speaks of these matrices."""
        return Shares(self.unit, {name: self.values[name] for name in names})

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {"unit": self.unit, "values": dict(self.values)}

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> "Shares":
        """The inverse of `facts`.

        Raises:
            InputError: it is no such JSON.
        """
        unit, values = facts.get("unit"), facts.get("values")
        if (
            unit not in get_args(Unit)
            or not isinstance(values, dict)
            or not all(type(value) is int and value >= 0 for value in values.values())
        ):
            raise InputError(f"shares need a unit (one of {', '.join(get_args(Unit))}) and whole numbers per matrix")
        return cls(cast("Unit", unit), dict(values))


def method_shares(method: Method, matrices: Iterable[Matrix]) -> Shares:
    """What a method takes from each matrix by itself."""
    if unit_of(method) == "zeros":
        sparsity = target_of(method)
        return Shares("zeros", {matrix.name: rounded_count(matrix.size, sparsity) for matrix in matrices})
    n = _n_of_m(method).n
    return Shares("n", {matrix.name: n for matrix in matrices})


def _n_of_m(method: Method) -> KeepNOfM:
    """The pattern of a method whose shares are n."""
    return required(method.pattern if isinstance(method.pattern, KeepNOfM) else None, "the pattern n_of_m")
