"""Search over the sparsity of each matrix: candidates of stored levels, scored by their KL to the dense model."""
