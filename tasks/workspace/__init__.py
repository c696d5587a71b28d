"""The folder with params.yaml, and its plugins."""
