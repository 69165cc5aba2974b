"""Training: one loop, with what it needs to be fast, exact and resumable."""
