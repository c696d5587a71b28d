"""Magnitude: the Euclidean norm of all that a group owns."""

from pruning_core.numerics.sums import summed
from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.importance import IMPORTANCES
from pruning_core.structured.scores import Scores
from pruning_core.structured.scoring_inputs import ScoringInputs


@IMPORTANCES.register("magnitude")
class Magnitude:
    """The Euclidean norm of all members of a group, biases included."""

    needs = frozenset[str]()

    def score(self, inputs: ScoringInputs, progress: Progress = ignore_progress) -> Scores:
        values = {}
        for index, _ in inputs.blocks():
            for site in inputs.of_block(index):
                squares = (m.per_group(inputs.weight(m.name).double().square()) for m in site.members)
                values[site.name] = summed(squares).sqrt().cpu()
            progress(index + 1, len(inputs.decoder))
        return Scores(values)
