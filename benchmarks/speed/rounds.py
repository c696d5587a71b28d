"""The contest: interleaved rounds in which every contestant compresses the same model with the same settings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.floor import SQUARE, product_shapes
from benchmarks.common.launch import Launcher
from benchmarks.speed.settings import SETTINGS, Scale, Setting
from benchmarks.speed.workloads import Workload
from pruning_core.checkpoint.model_files import read_config

Say = Callable[[str], None]
ONCE = "statistics"


@dataclass(frozen=True)
class Contest:
    """Who takes part, on what.

    Args:
        warm: compressed once by every process before its clock starts; None where no time is wanted.
    """

    launcher: Launcher
    scale: Scale
    workload: Workload
    warm: Workload | None
    folder: Path
    say: Say

    @property
    def contestants(self) -> tuple[str, ...]:
        """All that do whole compressions; llm-compressor where its environment is at hand."""
        peer = ("llmcompressor",) if self.launcher.peer else ()
        return ("espalier", "published", *peer, "variant")

    def out(self, contestant: str, setting: str = "", workload: Workload | None = None) -> Path:
        """Where a contestant writes; a later round writes over an earlier one."""
        return self.folder / (workload or self.workload).name / contestant / setting

    def job(self, contestant: str, setting: Setting | None, workload: Workload) -> dict[str, Any]:
        """A job for `benchmarks.common.runner`, without warm-up."""
        job = {
            "kind": contestant,
            "model": str(workload.model),
            "tokens": str(workload.tokens),
            "out": str(self.out(contestant, setting.name if setting else "", workload)),
            "batch": self.scale.peer_batch if contestant == "llmcompressor" else self.scale.batch,
            "statistics": str(self.out(ONCE, workload=workload)),
            "propagate": "compressed",
        }
        if setting:
            words = {"published": setting.published, "llmcompressor": setting.llmcompressor}
            job["method"] = words.get(contestant, setting.espalier)
        return job

    def turn(self, contestant: str, setting: Setting | None, repeat: int) -> dict[str, Any]:
        """One contestant does one setting; its record."""
        job = self.job(contestant, setting, self.workload)
        if self.warm:
            job["warm"] = self.job(contestant, setting, self.warm)
        name = setting.name if setting else ""
        result = self.launcher.run(job)
        record = {"contestant": contestant, "setting": name, "repeat": repeat, **result}
        self.say(f"{self.workload.name:8} round {repeat + 1}  {contestant:14} {name:14} {record['seconds']:8.2f} s")
        return record

    def rate(self) -> dict[str, float]:
        """Operations per second of matrix products now, by shape."""
        config = read_config(self.workload.model)
        shapes = [*product_shapes(config, self.scale.sequences * self.scale.length), SQUARE]
        rates = self.launcher.run({"kind": "rate", "shapes": shapes, "seconds": self.scale.rate_seconds})["rates"]
        self.say(f"{self.workload.name:8} products  {max(rates.values()) / 1e9:8.1f} GFLOP/s")
        return rates

    def round(self, repeat: int) -> list[dict[str, Any]]:
        """Every contestant once per setting; who begins changes from round to round."""
        records = [self.turn(ONCE, None, repeat)]
        first = repeat % len(self.contestants)
        order = self.contestants[first:] + self.contestants[:first]
        return records + [self.turn(contestant, setting, repeat) for setting in SETTINGS for contestant in order]
