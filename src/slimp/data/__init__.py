"""Cohorts: their schema, tables, files, encodings, splits, images and batches."""
