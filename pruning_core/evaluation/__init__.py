"""Evaluation: quality against the dense model, size and speed."""
