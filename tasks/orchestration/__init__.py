"""Prefect: steps as tasks, its cache as a view of the store, flow runs and temporary servers."""
