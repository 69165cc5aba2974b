"""A stand-in of the ISIC Archive's API on this machine, which can be told to misbehave."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from raw_data import noise

NUMBER = 7
"""The collection that it holds."""


@dataclass(frozen=True)
class Fault:
    """What a request gets instead of its answer."""

    status: int | None = None
    """An answer without the content."""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    """A whole answer of something else."""
    cut: int | None = None
    """Bytes after which the connection is broken off."""
    announced: bool = True
    """Whether a broken answer said how long it would be."""
    delay: float = 0.0
    """Seconds before the answer begins."""


@dataclass
class StandIn:
    """The archive's content, its faults, and what was asked of it."""

    images: dict[str, bytes]
    page: int = 4
    count: int | None = None
    """What it says it holds, if that is not true."""
    licences: dict[str, str] = field(default_factory=lambda: {"CC-0": "zero", "CC-BY": "by"})
    records: dict[str, dict[str, object]] = field(default_factory=dict)
    """Image -> what differs from its usual record."""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    """Path of a request, as a pattern -> what its next requests get."""
    always: dict[str, Fault] = field(default_factory=dict)
    """The same, for every request."""
    asked: list[str] = field(default_factory=list)
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_gets(self, pattern: str, *faults: dict[str, object]) -> None:
        """What the next requests for such a path get: fields of `Fault`."""
        self.faults[pattern] = [Fault(**fault) for fault in faults]

    def always_gets(self, pattern: str, **fault: object) -> None:
        """The same, for every request."""
        self.always[pattern] = Fault(**fault)

    def fault_of(self, path: str) -> Fault | None:
        with self.lock:
            self.asked.append(path)
            for pattern, faults in self.faults.items():
                if faults and re.search(pattern, path):
                    return faults.pop(0)
            return next((f for p, f in self.always.items() if re.search(p, path)), None)

    def files_asked(self) -> list[str]:
        """Images that were asked for, once per request."""
        return [path.rpartition("/")[2] for path in self.asked if path.startswith("/files/")]

    def record(self, name: str) -> dict[str, object]:
        number = sorted(self.images).index(name)
        usual: dict[str, object] = {
            "isic_id": name,
            "public": True,
            "copyright_license": ("CC-0", "CC-BY")[number % 2],
            "attribution": f"Hospital {number % 3}, \u00e9quipe \u2603",
            "files": {
                "full": {
                    "url": f"{self.address}/files/{name}.jpg?signature=s%2Fx",
                    "size": len(self.images[name]),
                },
                "thumbnail_256": {"url": f"{self.address}/files/none", "size": 1},
            },
            "metadata": {
                "acquisition": {"image_type": "dermoscopic", "pixels_x": 48},
                "clinical": {
                    "age_approx": 5 * number,
                    "sex": None if number == 2 else "male",
                    "diagnosis_1": "Benign, or so",
                    "melanocytic": True,
                }
                | ({"mel_thick_mm": 0.5} if number == 3 else {}),
            },
        }
        return usual | self.records.get(name, {})

    def answer(self, path: str, query: dict[str, list[str]]) -> object:
        """The content for an address of the API; None if there is nothing."""
        if path == f"/api/v2/collections/{NUMBER}/":
            return {"id": NUMBER, "name": "Skin in focus", "public": True}
        if path.startswith("/api/v2/images/search/"):
            if query.get("collections") != [str(NUMBER)]:
                return {"count": 0, "next": None, "previous": None, "results": []}
            if path.endswith("/size/"):
                return {"size": sum(map(len, self.images.values()))}
            begin = int(query.get("cursor", ["0"])[0])
            end = begin + int(query.get("limit", [str(self.page)])[0])
            names = sorted(self.images)
            again = f"{self.address}{path}?query=&collections={NUMBER}&cursor={end}"
            return {
                "count": len(names) if self.count is None else self.count,
                "next": again if end < len(names) else None,
                "previous": None,
                "results": [self.record(name) for name in names[begin:end]],
            }
        if match := re.fullmatch(r"/api/v2/zip-download/license-file/(.*)/", path):
            return self.licences.get(match[1])
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    archive: StandIn

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        fault = self.archive.fault_of(parts.path) or Fault()
        time.sleep(fault.delay)
        if parts.path.startswith("/files/"):
            body = self.archive.images.get(parts.path[7:].partition(".")[0])
        else:
            content = self.archive.answer(parts.path, parse_qs(parts.query))
            text = content if isinstance(content, str) else json.dumps(content)
            body = None if content is None else text.encode()
            kind = "text/plain" if isinstance(content, str) else "application/json"
            fault = replace(fault, headers=(*fault.headers, ("Content-Type", kind)))
        status = 404 if body is None else 200
        if fault.status is not None:
            status, body = fault.status, fault.body or b""
        elif fault.body is not None:
            body, status = fault.body, 200
        self.send(status, body or b"", fault)

    def send(self, status: int, rest: bytes, fault: Fault) -> None:
        self.send_response(status)
        for name, value in fault.headers:
            self.send_header(name, value)
        if fault.announced:
            self.send_header("Content-Length", str(len(rest)))
        if fault.cut is not None or not fault.announced:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        try:
            self.wfile.write(rest[: fault.cut])
        except OSError:  # the client went away
            self.close_connection = True


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Ten images on four pages, served on this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("SLIMP_ISIC_ARCHIVE", raising=False)
    content = StandIn({f"ISIC_{i:07d}": noise(i, width=40 + i) for i in range(10)}, page=3)
    handler = type("Bound", (Handler,), {"archive": content})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        content.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield content
        server.shutdown()
        thread.join()
