"""Lending metadata: what a reference knows of lesions that look like those of a target."""
