"""The lesion explorer: a cohort, what a run makes of it, and a server for one page."""
