"""docs/serving.md: what is faster on a processor."""
