"""Lending metadata: what a reference knows of lesions that look like those of a target.

`pseudo` is the name of the file and of the flag that takes it, after the paper's pseudo-metadata;
in code and on pages the same thing is `lent`.
"""
