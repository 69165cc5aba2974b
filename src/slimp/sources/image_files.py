"""Image files found by what a table calls them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
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
        self._by_stem: dict[str, tuple[int, ...]] = {}
        self._unread: dict[str, int] = {}  # by stem, too: pictures in formats that are not read
        for number, path in enumerate(place.paths):
            if not any(is_within(path, folder) for folder in self.folders):
                continue
            name = path.rpartition("/")[2]
            if IMAGE_ENDING.search(name) or NO_ENDING.search(name):
                stem = IMAGE_ENDING.sub("", name)
                self._by_stem[stem] = (*self._by_stem.get(stem, ()), number)
            elif UNREAD_ENDING.search(name):
                self._unread.setdefault(UNREAD_ENDING.sub("", name), number)

    def __str__(self) -> str:
        return " and ".join(str(self._place.raw / folder) for folder in self.folders)

    def find(self, cell: str) -> int | None:
        """The number of the file that the cell names.

        Raises:
            TableError: two files of different content answer to it.
        """
        key = image_key(cell)
        found = self._by_stem.get(key.rpartition("/")[2], ())
        at_path = [number for number in found if key in self._keys(number)]
        if at_path or "/" in key:
            found = tuple(at_path)
        if len(found) > 1:
            name = cell.strip().replace("\\", "/").rpartition("/")[2]
            exact = [n for n in found if self._place.paths[n].rpartition("/")[2] == name]
            found = tuple(exact) if len(exact) == 1 else found
        for other in found[1:]:
            if not self._place.same(found[0], other):
                raise TableError(
                    f"the image '{cell}' could be {self._place.shown(found[0])} or "
                    f"{self._place.shown(other)}, and they differ. "
                    "Remove one, or write the path in the table."
                )
        return found[0] if found else None

    def __call__(self, cell: str) -> bytes | None:
        """The encoded image that the cell names, or None.

        Raises:
            OSError: it is unreadable or damaged, or there only in a format that is not read.
        """
        number = self.find(cell)
        if number is None and (spelled := self._spellings.get(fold(image_key(cell)))):
            cell, number = spelled, self.find(spelled)
        if number is not None:
            return self._place.read(number, limit=MAX_IMAGE_BYTES)
        key = image_key(cell)
        other = self._unread.get(key.rpartition("/")[2])
        if other is not None and ("/" not in key or key in self._keys(other)):
            name = self._place.paths[other].rpartition("/")[2]
            raise OSError(f"there is {name}, whose format is not read; save it as JPEG or PNG")
        return None

    def hint(self, cell: str) -> str:
        """What a file is called that may be meant by a cell which names none, as a sentence."""
        wanted = similar_form(image_key(cell).rpartition("/")[2])
        near = next((stem for stem in self._by_stem if similar_form(stem) == wanted), None)
        if near is None:
            return ""
        zeros = "" if not near.isdecimal() else f', as in image_names = "{{column:{len(near):02}}}"'
        return (
            f" There is {near}, though: say under [table] how names are made of the table{zeros}."
        )

    @property
    def files(self) -> list[str]:
        """Paths of all files, from their folder on."""
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

    @cached_property
    def _spellings(self) -> dict[str, str]:
        """Folded name or path -> the file's path; '' where several answer."""
        known = dict[str, str]()
        for outer, file in sorted(self._found, key=lambda f: bool(UNREAD_ENDING.search(f[1]))):
            path = fold(image_key(file))
            for key in {path, path.rpartition("/")[2], f"{fold(outer)}/{path}"}:
                if key in known and UNREAD_ENDING.search(file):
                    continue  # a phone's copy of an image that can be read
                known[key] = "" if key in known else file
        return known

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
    if IMAGE_ENDING.search(path.name):
        return path.is_file()
    if not NO_ENDING.search(path.name) or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(132))
    except OSError:
        return False
