"""docs/results.md: training back."""
