"""Datasets from where they are published: fetched, or counted after a person fetched them.

`session` repeats requests and refuses odd addresses; `archive` is what the ISIC Archive holds;
`plan` says what a download needs, `collection` does it; `fetched` counts what the user fetched.
"""
