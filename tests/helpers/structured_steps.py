"""Steps of structured pruning, run one by one."""

from pathlib import Path

from tasks.engine.step import direct
from tasks.engine.step_log import CACHED, StepLog
from tasks.pipeline.open_pipeline import open_pipeline
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
        self.log = StepLog(direct)
        self.pipeline = open_pipeline(Workspace.open(root), self.log)
        self.run = self.pipeline.context.run

    def scores(self, importance: str = "column", families=("mlp", "attention")) -> Artifact:
        params = {"importance": {"name": importance}, "families": list(families), **RUNNING}
        inputs = {"source": self.pipeline.source, "tokens": self.pipeline.calibration}
        return self.run(structured_importance, params, inputs, "scores")

    def model(self, ranking: dict, reconstruction: dict | None = None, **scored) -> Artifact:
        params = {"recipe": {"ranking": ranking}, "ranking": ranking, "reconstruction": reconstruction, **RUNNING}
        inputs = {"source": self.pipeline.source, "scores": self.scores(**scored)}
        inputs |= {"tokens": self.pipeline.calibration} if reconstruction else {}
        return self.run(structured_prune, params, inputs, "model")

    def computed(self) -> list[str]:
        return [record["label"] for record in self.log.records if record["state"] != CACHED]
