"""Signatures of the commands; heavy packages are imported inside them."""
