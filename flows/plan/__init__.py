"""`espalier plan`: whether a variant fits this machine."""
