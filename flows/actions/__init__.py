"""Work of commands that need no Prefect flow."""
