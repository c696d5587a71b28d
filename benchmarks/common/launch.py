"""How a contestant gets its turn: a job in a process of its own, all with the same threads and without telemetry."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common.runner import perform
from pruning_core.errors import ComputationError

ROOT = Path(__file__).resolve().parents[2]
PEER_RUNNER = ROOT / "benchmarks" / "speed" / "llmcompressor_runner.py"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "LLM_COMPRESSOR_LOG_LEVEL": "ERROR",
}


@dataclass(frozen=True)
class Launcher:
    """Runs jobs one after the other.

    Args:
        folder: where jobs, results and messages are kept.
        threads: of every contestant.
        fresh: give every job a process; False runs them in this one, for the smoke run.
        peer: the Python that has llm-compressor; None leaves that contestant out.
    """

    folder: Path
    threads: int
    fresh: bool = True
    peer: Path | None = None

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job's result, with "process", the seconds from the start of its process to its end.

        Raises:
            ComputationError: the process failed; the message says where its output is.
        """
        job = {**job, "threads": self.threads}
        start = time.perf_counter()
        if job["kind"] == "llmcompressor":
            result = self._in_process(job, [str(self.peer), str(PEER_RUNNER)])
        elif self.fresh:
            result = self._in_process(job, [sys.executable, "-m", "benchmarks.common.runner"])
        else:
            result = perform(job)
        return result | {"process": time.perf_counter() - start}

    def _in_process(self, job: dict[str, Any], command: list[str]) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        job_file, result_file, log = (self.folder / name for name in ("job.json", "result.json", "output.txt"))
        job_file.write_text(json.dumps(job, default=str))
        result_file.unlink(missing_ok=True)
        threads = str(self.threads)
        environment = os.environ | QUIET | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        with log.open("w") as output:
            done = subprocess.run(
                [*command, str(job_file), str(result_file)],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if done.returncode:
            lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
            raise ComputationError(f"{job['kind']} failed: {lines[-1]} (all of its output is in {log})")
        return json.loads(result_file.read_text())
