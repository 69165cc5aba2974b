"""Image files found by what a table calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from slimp.errors import TableError
from slimp.sources.dicom import is_dicom
from slimp.sources.parse_cells import (
    IMAGE_ENDING,
    NO_ENDING,
    UNREAD_ENDING,
    fold,
    image_ending,
    image_key,
)
from slimp.sources.parse_ids import similar_form
from slimp.sources.raw_files import Place, is_within, without_zip

MAX_IMAGE_BYTES = 1 << 28
"""An image of more is refused, as is one in a zip that says it unpacks to more."""


class Images:
    """Image files in folders of a place ('' is all of it), found by what a table calls them.

    A cell may give a path from the folder on or just the file's name, with any ending or none, and
    in another case if one file alone is called so. A file without an ending is found, too, and may
    be anything.
    """

    def __init__(self, place: Place, folders: Sequence[str] = ("",)) -> None:
        self._place, self.folders = place, tuple(folders)
        self._named = dict[str, str]()  # path -> the cell that named it
        self._elsewhere = dict[str, str]()  # cell -> a path of another ending in another folder
        # By name without ending and letter case; pictures in formats that are not read apart.
        self._by_name, self._unread = dict[str, list[str]](), dict[str, list[str]]()
        for path in place.paths:
            if any(is_within(path, folder) for folder in self.folders):
                if IMAGE_ENDING.search(path) or NO_ENDING.search(path):
                    self._by_name.setdefault(stem(path), []).append(path)
                elif UNREAD_ENDING.search(path):
                    self._unread.setdefault(stem(path), []).append(path)

    def __str__(self) -> str:
        return " and ".join(str(self._place.raw / folder) for folder in self.folders)

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None.

        Raises:
            TableError: two files of different content answer to it, or a cell that is spelled
                otherwise named the same file.
            OSError: it is unreadable or damaged, or there only in a format that is not read.
        """
        found = self._answering(cell, self._by_name)
        if not found and (unread := self._answering(cell, self._unread)):
            name = unread[0].rpartition("/")[2]
            raise OSError(f"there is {name}, whose format is not read; save it as JPEG or PNG")
        if len(found) > 1:
            name = cell.strip().replace("\\", "/").rpartition("/")[2]
            exact = [path for path in found if path.rpartition("/")[2] == name]
            found = exact if len(exact) == 1 else found
        for other in found[1:]:
            if not self._place.same(found[0], other):
                raise TableError(
                    f"the image '{cell}' could be {self._place.raw / found[0]} or "
                    f"{self._place.raw / other}, and they differ. "
                    "Remove one, or write the path in the table."
                )
        if not found:
            return None
        first = self._named.setdefault(found[0], cell)
        if image_key(first) != image_key(cell):
            raise TableError(
                f"the images '{first}' and '{cell}' of the table are one file, "
                f"{self._place.raw / found[0]}. An image has one row: remove the wrong one."
            )
        asked, has = image_ending(cell), image_ending(found[0])
        here = fold(image_key(cell)) in map(fold, self._keys(found[0]))
        if asked and has and asked != has and not here:  # a copy, or a mask of what is absent
            self._elsewhere[cell] = found[0]
        return self._place.read(found[0], limit=MAX_IMAGE_BYTES)

    def notes(self) -> list[str]:
        """What is to be said about the files read so far, a sentence each."""
        if not self._elsewhere:
            return []
        cell, path = min(self._elsewhere.items())
        return [
            f"{len(self._elsewhere)} image(s) of the table were found only in another folder and "
            f"with another ending, such as {cell} as {path}; make sure that they are no masks."
        ]

    def hint(self, cell: str) -> str:
        """What a file is called that may be meant by a cell which names none, as a sentence."""
        wanted = similar_form(image_key(cell).rpartition("/")[2])
        near = next((n for name, n in self._by_name.items() if similar_form(name) == wanted), None)
        if near is None:
            return ""
        name = image_key(near[0]).rpartition("/")[2]
        zeros = "" if not name.isdecimal() else f', as in image_names = "{{column:{len(name):02}}}"'
        return (
            f" There is {name}, though: say under [table] how names are made of the table{zeros}."
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

    def _answering(self, cell: str, by_name: dict[str, list[str]]) -> list[str]:
        """The files that the cell names: by their path or, if it gives none, by their name."""
        key, near = image_key(cell), by_name.get(stem(cell), [])
        forms: tuple[Callable[[str], str], ...] = (str, fold)  # as it is spelled goes first
        for form in forms:
            if at_path := [path for path in near if form(key) in map(form, self._keys(path))]:
                return at_path
            if named := [p for p in near if form(image_key(p).rpartition("/")[2]) == form(key)]:
                return named
        return []

    def _keys(self, path: str) -> Iterator[str]:
        """The paths that name the file: from each folder on, with the folder's name, from RAW."""
        yield without_zip(image_key(path))
        for folder in self.folders:
            if is_within(path, folder):
                inner = without_zip(image_key(path[len(folder) :].lstrip("/")))
                yield inner
                outer = folder.rpartition("/")[2] or self._place.raw.name
                yield f"{without_zip(outer)}/{inner}"


def stem(path: str) -> str:
    """The file's name such that its ending and its letter case do not count."""
    return fold(image_key(path)).rpartition("/")[2]


def is_image_file(path: Path) -> bool:
    """Whether a file's ending is an image's; or it has none, and begins as DICOM does."""
    if not path.is_file() or not NO_ENDING.search(path.name):  # nobody may write to a pipe
        return IMAGE_ENDING.search(path.name) is not None and path.is_file()
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False
