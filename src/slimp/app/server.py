"""The explorer over HTTP: one page, and what it asks for.

A contract for the page and for scripts. `INDEX` is the row of an image in the cohort's table, from
0; answers are JSON unless said otherwise; an error is `{"error": SENTENCE}`. Every request carries
the token, see `Guard`.

- `GET /`, `GET /static/NAME`: the page.
- `GET /api/cohort`: `name images lesions patients run spaces projections label columns probe
  compare findings notice`; `columns` are `{name, level, kind, missing}` with `categories` (kind
  `category`) or `min max unit` (kind `number`); `level` is `image lesion patient` or `computed`.
- `GET /api/points?projection=pca`: float32, little-endian, x0 y0 x1 y1 ... in [-1, 1].
- `GET /api/column/NAME`: with `X-Kind: category`, uint16 codes of its categories, 65535 missing;
  with `X-Kind: number`, float32, NaN missing; both little-endian.
- `POST /api/ids` `{"indices": [...]}`, at most 100,000: `{"rows": [[image, lesion, patient]]}`.
- `GET /api/thumbnail/INDEX?size=96|256|768`: JPEG, the whole image, its longer side that long.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slimp.app.explorer import SIZES, Explorer
from slimp.app.guard import Guard
from slimp.errors import UserError

STATIC = Path(__file__).with_name("static")
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
MOST_IDS = 100_000
BODY = 2 << 20
"""Bytes of a JSON body, at most."""


def create_app(explorer: Explorer, token: str, hosts: Collection[str] = ()) -> Guard:
    """The application; `hosts` are further names that it goes by."""
    api = Api(explorer)
    routes = [
        Route("/", api.page),
        Route("/static/{name}", api.static),
        Route("/api/cohort", api.cohort),
        Route("/api/points", api.points),
        Route("/api/column/{name:path}", api.column),
        Route("/api/ids", api.ids, methods=["POST"]),
        Route("/api/thumbnail/{index:int}", api.thumbnail),
    ]
    handlers: Any = {UserError: _sentence, HTTPException: _sentence}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token, hosts)


def _sentence(request: Request, error: Exception) -> Response:
    """An error as JSON; a `UserError` that a request meets is about what it asked for."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    return JSONResponse({"error": str(error)}, 409)


class Api:
    """The answers."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.files = {path.name: path for path in STATIC.glob("*") if path.suffix in TYPES}

    def page(self, request: Request) -> Response:
        return self._file("index.html")

    def static(self, request: Request) -> Response:
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self.files:
            raise HTTPException(404, "No such file.")
        path = self.files[name]
        return Response(path.read_bytes(), media_type=TYPES[path.suffix])

    def cohort(self, request: Request) -> Response:
        return JSONResponse(self.explorer.describe())

    def points(self, request: Request) -> Response:
        kind = _choice(request, "projection", self.explorer.projections)
        return _binary(self.explorer.points(kind))

    def column(self, request: Request) -> Response:
        column = self.explorer.columns.get(request.path_params["name"])
        if column is None:
            raise HTTPException(404, "No such column.")
        return _binary(column.values, {"X-Kind": column.kind})

    async def ids(self, request: Request) -> Response:
        rows = (await _json(request)).get("indices")
        count = len(self.explorer.cohort)
        if not isinstance(rows, list) or len(rows) > MOST_IDS:
            raise HTTPException(400, f"'indices' must be a list of at most {MOST_IDS:,} numbers.")
        if not all(type(row) is int and 0 <= row < count for row in rows):
            raise HTTPException(400, f"An index is a whole number from 0 to {count - 1}.")
        return JSONResponse({"rows": await run_in_threadpool(self.explorer.ids, rows)})

    def thumbnail(self, request: Request) -> Response:
        size = int(_choice(request, "size", [str(size) for size in SIZES]))
        return Response(self.explorer.thumbnail(self._row(request), size), media_type="image/jpeg")

    def _row(self, request: Request) -> int:
        row: int = request.path_params["index"]
        if row >= len(self.explorer.cohort):
            raise HTTPException(404, "The cohort has no such image.")
        return row


def _choice(request: Request, name: str, allowed: Collection[str]) -> str:
    """A query parameter; the first allowed value if it is not given."""
    value = request.query_params.get(name, next(iter(allowed)))
    if value not in allowed:
        raise HTTPException(400, f"'{name}' must be one of {', '.join(allowed)}.")
    return value


def _binary(values: Any, headers: dict[str, str] | None = None) -> Response:
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return Response(little.tobytes(), media_type="application/octet-stream", headers=headers)


async def _json(request: Request) -> dict[str, Any]:
    try:
        content = json.loads(await _body(request, BODY))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise HTTPException(400, "The body must be a JSON object.")
    return content


async def _body(request: Request, most: int) -> bytes:
    """The body, which is refused before it is read whole if it is too large."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise HTTPException(413, f"At most {most / 2**20:.0f} MB can be sent.")
        parts.append(part)
    return b"".join(parts)
