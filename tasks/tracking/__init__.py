"""MLflow runs and models."""
