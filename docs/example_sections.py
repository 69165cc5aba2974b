"""Shows the `Example:` of our docstrings as Griffe shows `Examples:`, as code; for `make docs`."""

from typing import Any

import griffe


class ExampleSections(griffe.Extension):
    """Read by mkdocstrings before any docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
