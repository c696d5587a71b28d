"""docs/benchmarks.md and docs/scaling.md: speed beside peers, on several workers, and on a GPU."""
