"""What a model is worth: quality against the dense model, size and speed."""
