"""Datasets from where they are published: fetched, or counted after a person fetched them.

`session` asks a server again and no address it must not; `archive` is what the ISIC Archive holds;
`collection` fetches all of it; `fetched` counts what the user fetched where no program may.
"""
