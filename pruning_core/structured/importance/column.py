"""Column: what the output loses with a group's inputs."""

from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.activation_weighted import row_and_column
from pruning_core.structured.importance import IMPORTANCES
from pruning_core.structured.scores import Scores
from pruning_core.structured.scoring_inputs import ScoringInputs


@IMPORTANCES.register("column")
class Column:
    """(Sum of |w_rc| over r) * norm(x_c) over the columns of down (out) that read a group."""

    needs = frozenset({"tokens"})

    def score(self, inputs: ScoringInputs, progress: Progress = ignore_progress) -> Scores:
        return Scores(row_and_column(inputs, progress)[1])
