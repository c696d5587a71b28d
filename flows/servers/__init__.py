"""The MLflow and Prefect servers of `espalier up`."""
