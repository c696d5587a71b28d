"""The training loop that recovery methods share."""
