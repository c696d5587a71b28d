"""How matrices, grids and masks are packed into the files of an export; shared by the formats."""
