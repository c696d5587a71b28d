"""docs/results.md: prune and quantize, jointly and one after the other."""
