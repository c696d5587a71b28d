"""Content-addressed artifacts, locks and digests; knows no step."""
