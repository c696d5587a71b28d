"""Structured pruning: whole channels and attention heads go, so that the matrices really get smaller."""
