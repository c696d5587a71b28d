"""docs/memory.md: peak memory, planned and measured."""
