"""One recipe per module, in its `RECIPE`; a new file is a new experiment."""
