"""Image files found by what a table calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from slimp.errors import TableError
from slimp.sources.dicom import is_dicom
from slimp.sources.parse_cells import IMAGE_ENDING, NO_ENDING, UNREAD_ENDING, fold, image_key
from slimp.sources.parse_ids import similar_form
from slimp.sources.raw_files import Place, is_within, without_zip

MAX_IMAGE_BYTES = 1 << 28
"""An image of more is refused, as is one in a zip that says it unpacks to more."""


class Images:
    """Image files under some folders of a place, found by what a table calls them.

    A cell may give a path from the folder on or just the file's name, with any ending or none, and
    in another case if one file alone is called so. A file without an ending is found, too, and may
    be anything.

    Args:
        place: where the folders are.
        folders: paths in it; '' is all of it.
    """

    def __init__(self, place: Place, folders: Sequence[str] = ("",)) -> None:
        self._place, self.folders = place, tuple(folders)
        # By name without ending and letter case; pictures in formats that are not read apart.
        self._by_name, self._unread = dict[str, list[int]](), dict[str, list[int]]()
        for number, path in enumerate(place.paths):
            if any(is_within(path, folder) for folder in self.folders):
                name = path.rpartition("/")[2]
                if IMAGE_ENDING.search(name) or NO_ENDING.search(name):
                    self._by_name.setdefault(fold(image_key(name)), []).append(number)
                elif UNREAD_ENDING.search(name):
                    self._unread.setdefault(fold(image_key(name)), []).append(number)

    def __str__(self) -> str:
        return " and ".join(str(self._place.raw / folder) for folder in self.folders)

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None.

        Raises:
            TableError: two files of different content answer to it.
            OSError: it is unreadable or damaged, or there only in a format that is not read.
        """
        paths, found = self._place.paths, self._answering(cell, self._by_name)
        if not found and (unread := self._answering(cell, self._unread)):
            name = paths[unread[0]].rpartition("/")[2]
            raise OSError(f"there is {name}, whose format is not read; save it as JPEG or PNG")
        if len(found) > 1:
            name = cell.strip().replace("\\", "/").rpartition("/")[2]
            exact = [number for number in found if paths[number].rpartition("/")[2] == name]
            found = exact if len(exact) == 1 else found
        for other in found[1:]:
            if not self._place.same(found[0], other):
                raise TableError(
                    f"the image '{cell}' could be {self._place.shown(found[0])} or "
                    f"{self._place.shown(other)}, and they differ. "
                    "Remove one, or write the path in the table."
                )
        return self._place.read(found[0], limit=MAX_IMAGE_BYTES) if found else None

    def hint(self, cell: str) -> str:
        """What a file is called that may be meant by a cell which names none, as a sentence."""
        wanted = similar_form(image_key(cell).rpartition("/")[2])
        near = next((n for stem, n in self._by_name.items() if similar_form(stem) == wanted), None)
        if near is None:
            return ""
        stem = image_key(self._place.paths[near[0]]).rpartition("/")[2]
        zeros = "" if not stem.isdecimal() else f', as in image_names = "{{column:{len(stem):02}}}"'
        return (
            f" There is {stem}, though: say under [table] how names are made of the table{zeros}."
        )

    @property
    def files(self) -> list[str]:
        """Paths of all files, from their folder on."""
        return [
            path[len(folder) :].lstrip("/")
            for path in self._place.paths
            for folder in self.folders
            if is_within(path, folder)
        ]

    def _answering(self, cell: str, by_name: dict[str, list[int]]) -> list[int]:
        """The files that the cell names: by their path or, if it gives none, by their name."""
        key = image_key(cell)
        near = by_name.get(fold(key.rpartition("/")[2]), [])
        forms: tuple[Callable[[str], str], ...] = (str, fold)  # as it is spelled goes first
        for form in forms:
            if at_path := [n for n in near if form(key) in map(form, self._keys(n))]:
                return at_path
            stems = [form(image_key(self._place.paths[n]).rpartition("/")[2]) for n in near]
            if named := [n for n, stem in zip(near, stems, strict=True) if stem == form(key)]:
                return named
        return []

    def _keys(self, number: int) -> Iterator[str]:
        """The paths that name the file: from each folder on, with the folder's name, from RAW."""
        path = self._place.paths[number]
        yield without_zip(image_key(path))
        for folder in self.folders:
            if is_within(path, folder):
                inner = without_zip(image_key(path[len(folder) :].lstrip("/")))
                yield inner
                outer = folder.rpartition("/")[2] or self._place.raw.name
                yield f"{without_zip(outer)}/{inner}"


def is_image_file(path: Path) -> bool:
    """Whether a file's ending is an image's; or it has none, and begins as DICOM does."""
    if not path.is_file() or not NO_ENDING.search(path.name):  # nobody may write to a pipe
        return IMAGE_ENDING.search(path.name) is not None and path.is_file()
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False
