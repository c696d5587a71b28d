"""docs/results.md: where to prune."""
