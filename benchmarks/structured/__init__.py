"""docs/results.md: structured pruning."""
