"""docs/results.md: every method on the shipped model."""
