"""What `check_cohort` looks for, one subject per file."""
