"""What killed processes left unfinished in Prefect and MLflow, told as what it is when the next command starts."""

from pathlib import Path

from tasks import flow_runs, tracking


def reconcile(workspace: Path) -> list[str]:
    """Mark the flow runs and the MLflow runs whose process is gone; a sentence for each.

    Those of living processes and of other machines are left alone.
    """
    flows = [f"flow run {run} was left by a process that is gone: Crashed" for run in flow_runs.reconcile(workspace)]
    runs = [f"MLflow run {run} was left by a process that is gone: KILLED" for run in tracking.end_abandoned(workspace)]
    return flows + runs
