"""Cached steps: read artifacts, call one core function, write one artifact."""
