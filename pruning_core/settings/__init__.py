"""Every key of params.yaml, typed and checked."""
