"""Image files without what they say besides their pixels: where, when, by whom they were taken.

JPEG and PNG are cut segment by segment, so that no pixel changes. Colour profiles stay, because
colours would be others without them.
"""

from __future__ import annotations

import re

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The next marker in entropy-coded data, where a byte 0xff is otherwise followed by 0 or a
restart."""
_SOS, _EOI, _COM = 0xDA, 0xD9, 0xFE
_SEGMENTS = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xF0), _COM} - {0xC8, _EOI})
"""Markers that a segment with its length follows."""
_KEPT_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"}
    | {b"sBIT", b"pHYs", b"bKGD", b"hIST", b"mDCV", b"cLLI"}
)
PNG_START = b"\x89PNG\r\n\x1a\n"


def strip_metadata(encoded: bytes) -> bytes | None:
    """The JPEG or PNG file without EXIF, XMP, IPTC, comments, and what follows its end.

    The very object that came in, if there is nothing to remove. None where its segments do not
    hold together up to the end, so that it cannot be told what they say: decoders read many such
    files nevertheless.
    """
    if encoded.startswith(b"\xff\xd8"):
        return _strip_jpeg(encoded)
    if encoded.startswith(PNG_START):
        return _strip_png(encoded)
    return None


def _strip_jpeg(encoded: bytes) -> bytes | None:
    kept = list[bytes]()
    start, at = 0, 2  # of what is kept since the last cut, and of the next marker
    while encoded.startswith(b"\xff", at):
        while encoded.startswith(b"\xff", at + 1):  # a fill byte
            at += 1
        marker = int.from_bytes(encoded[at + 1 : at + 2], "big")
        if marker == _EOI:
            if start == 0 and at + 2 == len(encoded):
                return encoded
            return b"".join([*kept, encoded[start : at + 2]])
        length = int.from_bytes(encoded[at + 2 : at + 4], "big")
        if marker not in _SEGMENTS or length < 2:
            return None
        end = at + 2 + length
        if marker == _COM or (0xE0 <= marker <= 0xEF and not _is_kept(encoded, at, marker)):
            kept.append(encoded[start:at])
            start = end
        at = end
        if marker == _SOS:
            following = _MARKER.search(encoded, at)
            if following is None:
                return None
            at = following.start()
    return None


def _is_kept(encoded: bytes, at: int, marker: int) -> bool:
    """Whether an application segment bears on the pixels: JFIF, a colour profile, Adobe's."""
    if marker == 0xE0:
        return encoded.startswith(b"JFIF\0", at + 4)
    if marker == 0xE2:
        return encoded.startswith(b"ICC_PROFILE\0", at + 4)
    return marker == 0xEE and encoded.startswith(b"Adobe", at + 4)


def _strip_png(encoded: bytes) -> bytes | None:
    kept = list[bytes]()
    start, at = 0, 8
    while at + 12 <= len(encoded):
        kind = encoded[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(encoded[at : at + 4], "big")
        if end > len(encoded):
            return None
        if kind not in _KEPT_CHUNKS:
            kept.append(encoded[start:at])
            start = end
        at = end
        if kind == b"IEND":
            if start == 0 and at == len(encoded):
                return encoded
            return b"".join([*kept, encoded[start:at]])
    return None
