"""Model files on disk: read one tensor at a time, written durably."""
