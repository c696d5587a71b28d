"""docs/results.md: studies of what the papers leave open."""
