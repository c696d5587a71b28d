"""Steps of structured pruning, run one by one."""

from dataclasses import replace
from pathlib import Path

from tasks.engine.step_log import CACHED, StepsSeen
from tasks.pipeline.variant import Pipeline
from tasks.steps.structured_importance import structured_importance
from tasks.steps.structured_prune import structured_prune
from tasks.store.artifact import Artifact
from tasks.workspace.workspace import Workspace

COLUMN = {"importance": {"name": "column"}, "ratio": 0.2, "of": "blocks", "multiple": 4}


RUNNING = {"batch": 4, "trust_remote_code": False, "device": "cpu", "dtype": "float32"}


UNIFORM = {"ratio": 0.2, "of": "blocks", "multiple": 4}


MIXED = UNIFORM | {"mode": "heterogeneous", "scope": "global", "protect_first": 0, "protect_last": 0}


class Steps:
    """Runs the two steps of one workspace and remembers what was computed."""

    def __init__(self, root: Path) -> None:
        workspace = Workspace.open(root)
        plain = workspace.context()
        self.seen = StepsSeen(plain.run)
        self.pipeline = Pipeline(replace(plain, run=self.seen), workspace.settings)

    def scores(self, importance: str = "column", families=("mlp", "attention")) -> Artifact:
        params = {"importance": {"name": importance}, "families": list(families), **RUNNING}
        inputs = {"source": self.pipeline.source, "tokens": self.pipeline.calibration}
        return self.seen(structured_importance, params, inputs, "scores")

    def model(self, ranking: dict, reconstruction: dict | None = None, **scored) -> Artifact:
        params = {"recipe": {"ranking": ranking}, "ranking": ranking, "reconstruction": reconstruction, **RUNNING}
        inputs = {"source": self.pipeline.source, "scores": self.scores(**scored)}
        inputs |= {"tokens": self.pipeline.calibration} if reconstruction else {}
        return self.seen(structured_prune, params, inputs, "model")

    def computed(self) -> list[str]:
        return [record["label"] for record in self.seen.records if record["state"] != CACHED]
