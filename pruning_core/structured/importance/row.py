"""Row: what a group's own rows make of their inputs."""

from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.activation_weighted import row_and_column
from pruning_core.structured.importance import IMPORTANCES
from pruning_core.structured.scores import Scores
from pruning_core.structured.scoring_inputs import ScoringInputs


@IMPORTANCES.register("row")
class Row:
    """Sum of |w_rc| * norm(x_c) over the rows of gate and up (query, key and value) that a group owns."""

    needs = frozenset({"tokens"})

    def score(self, inputs: ScoringInputs, progress: Progress = ignore_progress) -> Scores:
        return Scores(row_and_column(inputs, progress)[0])
