"""The search over how much each matrix loses: candidates of stored levels, judged by their KL to the dense model."""
