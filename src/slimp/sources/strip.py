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
_BARE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a segment."""
_KEPT_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP"}
    | {b"sBIT", b"pHYs", b"bKGD", b"hIST", b"mDCV", b"cLLI"}
)
PNG_START = b"\x89PNG\r\n\x1a\n"


def strip_metadata(encoded: bytes) -> bytes:
    """The file without EXIF, XMP, IPTC, comments, and what follows its end.

    The very object that came in, if there is nothing to remove; also where it is neither JPEG nor
    PNG, or its segments do not hold together.
    """
    if encoded.startswith(b"\xff\xd8"):
        return _strip_jpeg(encoded)
    if encoded.startswith(PNG_START):
        return _strip_png(encoded)
    return encoded


def _strip_jpeg(encoded: bytes) -> bytes:
    kept = [encoded[:2]]
    start = at = 2  # of what is kept since the last cut, and of the next marker
    size = len(encoded)
    while at + 4 <= size:
        if encoded[at] != 0xFF:
            return encoded
        marker = encoded[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _BARE:
            at += 2
            continue
        end = at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        if marker == _COM or (0xE0 <= marker <= 0xEF and not _is_kept(encoded, at, marker)):
            kept.append(encoded[start:at])
            start = end
        at = end
        if marker == _SOS:
            following = _MARKER.search(encoded, at)
            if following is None:
                break
            at = following.start()
        if at + 2 <= size and encoded[at + 1] == _EOI:
            if start == 2 and at + 2 == size:
                return encoded
            return b"".join([*kept, encoded[start : at + 2]])
    return encoded if start == 2 else b"".join([*kept, encoded[start:]])


def _is_kept(encoded: bytes, at: int, marker: int) -> bool:
    """Whether an application segment bears on the pixels: JFIF, a colour profile, Adobe's."""
    if marker == 0xE0:
        return encoded.startswith(b"JFIF\0", at + 4)
    if marker == 0xE2:
        return encoded.startswith(b"ICC_PROFILE\0", at + 4)
    return marker == 0xEE and encoded.startswith(b"Adobe", at + 4)


def _strip_png(encoded: bytes) -> bytes:
    kept = [encoded[:8]]
    start = at = 8
    while at + 12 <= len(encoded):
        kind = encoded[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(encoded[at : at + 4], "big")
        if kind not in _KEPT_CHUNKS:
            kept.append(encoded[start:at])
            start = end
        at = end
        if kind == b"IEND":
            if start == 8 and at >= len(encoded):
                return encoded
            return b"".join([*kept, encoded[start:at]])
    return encoded
