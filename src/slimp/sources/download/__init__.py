"""Datasets from where they are published: fetched, or counted after a person fetched them."""
