"""A pipeline ready to run: workspace, driver and log put together."""

from tasks.pipeline.variant import Pipeline


def judge(pipeline: Pipeline, name: str) -> None:
    """Make a variant and all that tells its quality; its speed is for when nothing else is at work."""
    pipeline.evaluated(name)
    pipeline.task_evaluated(name)
    pipeline.written(name)
