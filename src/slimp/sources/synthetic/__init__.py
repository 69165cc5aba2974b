"""A drawn cohort with a true hierarchy, for demos, tests and benchmarks."""
