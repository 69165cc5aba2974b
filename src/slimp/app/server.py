"""The explorer over HTTP: one page, and what it asks for.

A contract for the page and for scripts. `INDEX` is the row of an image in the cohort's table, from
0; answers are JSON unless said otherwise; an error is `{"error": SENTENCE}`. Every request carries
the token, see `Guard`.

- `GET /`, `GET /static/NAME`: the page.
- `GET /api/cohort`: `name images lesions patients run spaces projections label columns probe
  cautions compare findings notice`; `columns` are `{name, level, kind, missing}` with `categories`
  (kind `category`) or `min max unit` (kind `number`); `level` is `image lesion patient` or
  `computed`.
- `GET /api/points?projection=pca&run=a|b`: float32, little-endian, x0 y0 x1 y1 ... in [-1, 1].
- `GET /api/column/NAME`: with `X-Kind: category`, uint16 codes of its categories, 65535 missing;
  with `X-Kind: number`, float32, NaN missing; both little-endian.
- `POST /api/ids` `{"indices": [...]}`, at most 100,000: `{"rows": [[image, lesion, patient]]}`.
- `GET /api/groups`: uint32, little-endian: the patient of every image, then its lesion, numbered.
- `GET /api/find?id=TEXT`: `{indices, rows}` of the first 20 images of which an id of any level
  begins with the text.
- `GET /api/thumbnail/INDEX?size=96|256|768`: JPEG, the whole image, its longer side that long.
- `GET /api/case/INDEX`: `index ids label outlier warnings notice`; `metadata`: `{level, name,
  value, unit, missing}`; `others`: the patient's other images, the most unlike first, at most 500
  of `others_total`, as `{index, outlier, same_lesion, label}`; `prediction`: null without a probe,
  or `{probabilities, predicted, rule, coverage, conformal_set, abstains, reason, novelty_p}`.
- `GET /api/imputed/INDEX`: column -> value from the nearest lesions and patients of others, not
  observed; empty for large cohorts.
- `GET /api/neighbours/INDEX?space=image|lesion|patient&k=12&other_patients=1|0`:
  `{"neighbours": [{index, similarity}]}` by cosine, exact; of lesions and patients, whose metadata
  are compared, the first image. With 1, none of the query's own patient.
- `GET /api/methods`: those of explanation that fit the encoder, the default first.
- `GET /api/explanation/INDEX?method=...`: PNG, a layer over the whole image; `X-Explains` says of
  what.
- `POST /api/predict`, multipart: `image`, at most 25 MB, and `metadata`, a JSON object of columns,
  numbers in the column's `unit`: `{prediction, warnings, neighbours, notice}`, as `slimp predict`.
  Nothing is kept. Without a probe, or the metadata that it needs, 409 with `error` and
  `neighbours`; 400 if it is no image.
- `GET /api/compare`: `{runs, k, overlap, by_chance, images}`: mean share of common neighbours.
- `GET /api/findings`: `[{level, title, text, remedy, indices, total}]`, at most 500 indices each.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Collection
from pathlib import Path
from typing import Any, cast

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from slimp.app.explorer import NOTICE, SIZES, Explorer
from slimp.app.guard import Guard
from slimp.data.schema import LevelName
from slimp.errors import UserError
from slimp.explain.config import Method
from slimp.prediction.result import Prediction

STATIC = Path(__file__).with_name("static")
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
MOST_IDS = 100_000
MOST_NEIGHBOURS, K = 100, 12
BODY, UPLOAD = 2 << 20, 25 << 20
"""Bytes of a JSON body, and of an upload, at most."""


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
        Route("/api/groups", api.groups),
        Route("/api/find", api.find),
        Route("/api/thumbnail/{index:int}", api.thumbnail),
        Route("/api/case/{index:int}", api.case),
        Route("/api/imputed/{index:int}", api.imputed),
        Route("/api/neighbours/{index:int}", api.neighbours),
        Route("/api/methods", api.methods),
        Route("/api/explanation/{index:int}", api.explanation),
        Route("/api/predict", api.predict, methods=["POST"]),
        Route("/api/compare", api.compare),
        Route("/api/findings", api.findings),
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
        other = _choice(request, "run", ["a", "b"] if self.explorer.comparison else ["a"])
        return _binary(self.explorer.points(kind, other == "b"))

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

    def groups(self, request: Request) -> Response:
        of = self.explorer.of_image
        return _binary(np.concatenate([of["patient"], of["lesion"]]).astype(np.uint32))

    def find(self, request: Request) -> Response:
        found = self.explorer.find(request.query_params.get("id", ""))
        return JSONResponse({"indices": found, "rows": self.explorer.ids(found)})

    def thumbnail(self, request: Request) -> Response:
        size = int(_choice(request, "size", [str(size) for size in SIZES]))
        return Response(self.explorer.thumbnail(self._row(request), size), media_type="image/jpeg")

    def case(self, request: Request) -> Response:
        return JSONResponse(self.explorer.case(self._row(request)))

    def imputed(self, request: Request) -> Response:
        return JSONResponse(self.explorer.imputed(self._row(request)))

    def neighbours(self, request: Request) -> Response:
        space = cast("LevelName", _choice(request, "space", [*self.explorer.embedded.spaces]))
        k = request.query_params.get("k", "12")
        if not k.isdecimal() or not 1 <= int(k) <= MOST_NEIGHBOURS:
            raise HTTPException(400, f"'k' must be a whole number from 1 to {MOST_NEIGHBOURS}.")
        others = _choice(request, "other_patients", ["1", "0"]) == "1"
        found = self.explorer.neighbours(self._row(request), space, int(k), other_patients=others)
        return JSONResponse({"neighbours": found})

    def methods(self, request: Request) -> Response:
        return JSONResponse(list(self.explorer.seen.methods))

    def explanation(self, request: Request) -> Response:
        seen, row = self.explorer.seen, self._row(request)
        method = cast("Method", _choice(request, "method", seen.methods))
        layer, words = seen.explanation(row, method)
        headers = {"X-Explains": words.encode("ascii", "replace").decode()}
        return Response(layer, media_type="image/png", headers=headers)

    async def predict(self, request: Request) -> Response:
        encoded, metadata = await _upload(request)
        return await run_in_threadpool(self._predict, encoded, metadata)

    def _predict(self, encoded: bytes, metadata: dict[str, Any] | None) -> Response:
        seen = self.explorer.seen
        embedding = seen.embed(encoded)
        if isinstance(embedding, Prediction) and embedding.status == "unreadable":
            raise HTTPException(400, f"No image could be read: {embedding.reason}.")
        near: list[Any] = []
        if not isinstance(embedding, Prediction):
            near = self.explorer.near(embedding, K)
        if self.explorer.predicted is None:
            error = "There is no probe, so nothing is predicted. Start slimp app with --probe."
            return JSONResponse({"error": error, "neighbours": near, "notice": NOTICE}, 409)
        try:
            answer, warnings = seen.predict(encoded, metadata)
        except UserError as error:
            return JSONResponse({"error": str(error), "neighbours": near, "notice": NOTICE}, 409)
        facts = self.explorer.predicted.facts
        found = {"prediction": facts.to_dict(answer), "warnings": [*facts.cautions, *warnings]}
        found["neighbours"] = near
        return JSONResponse({**found, "notice": NOTICE})

    def compare(self, request: Request) -> Response:
        other = self.explorer.comparison
        if other is None:
            raise HTTPException(404, "There is no second run. Start slimp app with --compare.")
        return JSONResponse(other.to_dict([self.explorer.run, other.run]))

    def findings(self, request: Request) -> Response:
        return JSONResponse(self.explorer.findings)

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
        content = json.loads(b"".join([part async for part in _limited(request, BODY)]))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise HTTPException(400, "The body must be a JSON object.")
    return content


async def _limited(request: Request, most: int) -> AsyncGenerator[bytes, None]:
    """The body, refused before it is read whole if it is too large."""
    size, said = 0, request.headers.get("content-length", "0")
    too_large = HTTPException(413, f"At most {most / 2**20:.0f} MB can be sent.")
    if not said.isdecimal() or int(said) > most:
        raise too_large
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise too_large
        yield part


async def _upload(request: Request) -> tuple[bytes, dict[str, Any] | None]:
    """The image and the metadata of a form, in memory alone."""
    malformed = HTTPException(400, "Send a form (multipart/form-data) with one file, 'image'.")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise malformed
    parser = MultiPartParser(
        request.headers, _limited(request, UPLOAD), max_files=1, max_fields=1, max_part_size=BODY
    )
    parser.spool_max_size = 2 * UPLOAD  # or starlette would write larger files to the disk
    try:
        form = await parser.parse()
        image, text = form.get("image"), form.get("metadata")
        if not isinstance(image, UploadFile) or isinstance(text, UploadFile):
            raise malformed
        return await image.read(), None if text is None else _metadata(text)
    except (MultiPartException, ValueError):
        raise malformed from None
    finally:
        for file in parser._files_to_close_on_error:
            file.close()


def _metadata(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or any(isinstance(x, dict | list) for x in found.values()):
        raise HTTPException(400, "'metadata' must be a JSON object: column to value.")
    return {name: value for name, value in found.items() if value is not None}
