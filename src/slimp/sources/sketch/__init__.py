"""A schema file proposed from a table: what its columns seem to be, and what is in doubt."""
