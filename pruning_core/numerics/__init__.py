"""Plain numerics that know nothing of models."""
