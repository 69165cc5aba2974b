"""Frozen features: embedding, nearest neighbours, k-nearest-neighbour scores."""
