"""Probes on frozen features, their splits, metrics and intervals."""
