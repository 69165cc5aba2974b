"""Image files found whatever the case of their names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from slimp.sources.arrange import fold
from slimp.sources.image_files import Images
from slimp.sources.parse_cells import UNREAD_ENDING, image_key
from slimp.sources.raw_files import Place


class AnyCase:
    """Image files of some folders, found by name or path; if need be in another case.

    Args:
        place: where the folders are.
        folders: their paths there.
    """

    def __init__(self, place: Place, folders: Sequence[str]) -> None:
        self._place, self.folders = place, tuple(folders)
        self._images = Images(place, folders)

    def __str__(self) -> str:
        return str(self._images)

    @property
    def files(self) -> list[str]:
        """Paths of all files, from the folder on."""
        return [file for _, file in self._found]

    @cached_property
    def _found(self) -> list[tuple[str, str]]:
        """(name of the folder, path of the file from it on)."""
        starts = [(f.rpartition("/")[2], f"{f}/" if f else "") for f in self.folders]
        return [
            (outer, path[len(start) :])
            for path in self._place.paths
            for outer, start in starts
            if path.startswith(start)
        ]

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None."""
        encoded = self._images(cell)
        if encoded is None and (other := self._spellings.get(fold(image_key(cell)))):
            encoded = self._images(other)
        return encoded

    @cached_property
    def _spellings(self) -> dict[str, str]:
        """Folded name or path -> the file's path; '' where several answer."""
        known = dict[str, str]()
        for outer, file in sorted(
            self._found, key=lambda f: UNREAD_ENDING.search(f[1]) is not None
        ):
            path = fold(image_key(file))
            for key in {path, path.rpartition("/")[2], f"{fold(outer)}/{path}"}:
                if key in known and UNREAD_ENDING.search(file):
                    continue  # a phone's copy of an image that can be read
                known[key] = "" if key in known else file
        return known
