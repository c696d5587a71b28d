"""Row and column together."""

from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.activation_weighted import row_and_column
from pruning_core.structured.importance import IMPORTANCES
from pruning_core.structured.scores import Scores, combined
from pruning_core.structured.scoring_inputs import ScoringInputs


@IMPORTANCES.register("both")
class Both:
    """Mean of `row` and `column`, each divided by its mean over the groups of a block."""

    needs = frozenset({"tokens"})

    def score(self, inputs: ScoringInputs, progress: Progress = ignore_progress) -> Scores:
        return Scores(combined(inputs.sites, *row_and_column(inputs, progress)))
