"""What a step is, its key, the digest of its code, and the drivers that run it; knows no particular step."""
