"""Measurements side by side: this project, its peers, the published loops, and what the arithmetic alone must take."""
