"""All code of tasks/ that a result depends on: one file per step, `STEP_part` beside it."""
