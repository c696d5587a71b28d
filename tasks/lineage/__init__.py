"""Provenance, reproduction, and garbage collection by what names artifacts."""
