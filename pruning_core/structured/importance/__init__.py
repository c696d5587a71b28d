"""Importances of coupled groups; larger means keep."""

from typing import ClassVar, Protocol

from pruning_core.progress import Progress, ignore_progress
from pruning_core.registry import Registry
from pruning_core.structured.scores import Scores
from pruning_core.structured.scoring_inputs import ScoringInputs


class Importance(Protocol):
    """An importance: a frozen dataclass registered under its name; its fields are its params.yaml keys."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """Subset of {"tokens", "whole"}: calibration windows; every weight in memory at once."""

    def score(self, inputs: ScoringInputs, progress: Progress = ignore_progress) -> Scores:
        """The scores of all groups of all sites of the inputs."""
        ...


IMPORTANCES: Registry[Importance] = Registry("importance", "pruning_core.structured.importance")
