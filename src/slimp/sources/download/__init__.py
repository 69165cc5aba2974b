"""Datasets from where they are published: fetched, or checked after a person did it.

The way of a download: `address` which server may be asked, `patience` how often, `archive` what the
ISIC Archive holds, `plan` what to fetch and whether there is room, `transfer` one image,
`collection` all of them; `fetched` checks what the user fetched where no program may.
"""
