"""docs/reliability.md, and damaged sparse containers."""
