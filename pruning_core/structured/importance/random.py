"""Random: the baseline that every other importance has to beat."""

import torch

from pruning_core.progress import Progress, ignore_progress
from pruning_core.structured.importance import IMPORTANCES
from pruning_core.structured.scores import Scores
from pruning_core.structured.scoring_inputs import ScoringInputs


@IMPORTANCES.register("random")
class Random:
    """Uniform draws from [0, 1).

    seed: of the draws; the same seed gives the same scores on every machine.
    """

    needs = frozenset[str]()

    seed: int = 0

    def score(self, inputs: ScoringInputs, progress: Progress = ignore_progress) -> Scores:
        draw = torch.Generator().manual_seed(self.seed)
        values = {site.name: torch.rand(site.groups, generator=draw, dtype=torch.float64) for site in inputs.sites}
        # A group's chance must not depend on its size.
        return Scores(values, per_parameter=False)
