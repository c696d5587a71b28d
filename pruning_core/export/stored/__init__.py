"""Model directories in any export format: recognised when stored, previewed before they are made."""
