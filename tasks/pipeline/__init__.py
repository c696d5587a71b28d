"""Which steps make a variant, in which order."""
