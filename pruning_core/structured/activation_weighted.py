"""|w| times the norm of its input, as Wanda scores weights (arXiv:2306.11695, eq. 1), summed over groups."""

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from pruning_core.model.coupled_groups import Member, Site
from pruning_core.numerics.sums import summed
from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.scoring_inputs import ScoringInputs, input_squares


def row_and_column(
    inputs: ScoringInputs, progress: Progress = ignore_progress
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(scores from what a group writes with, from what reads it), each site name -> [groups] float64."""
    rows: dict[str, Tensor] = {}
    columns: dict[str, Tensor] = {}
    for index, squares in input_squares(inputs, progress):
        for site in inputs.of_block(index):
            rows[site.name] = _summed(inputs, site, squares, consumes=False)
            columns[site.name] = _summed(inputs, site, squares, consumes=True)
    return rows, columns


def _summed(inputs: ScoringInputs, site: Site, squares: dict[str, Tensor], consumes: bool) -> Tensor:
    members = [m for m in site.members if m.consumes == consumes and m.parameter == "weight"]
    return summed(member.per_group(_weighted(inputs, member, squares[member.matrix])) for member in members).cpu()


def _weighted(inputs: ScoringInputs, member: Member, squares: Tensor) -> Tensor:
    norms = squares.sqrt()
    transposed = isinstance(inputs.decoder.model.get_submodule(member.matrix), Conv1D)
    return inputs.weight(member.name).double().abs() * (norms[:, None] if transposed else norms)
