"""Exact counts of zeros, levels of sparsity, and allocations repaired to a budget."""
