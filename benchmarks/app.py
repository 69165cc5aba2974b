"""Opening the lesion explorer on a large cohort, and asking it: seconds, milliseconds and memory.

A cohort of 400,000 drawn lesions with 40 columns of metadata and embeddings of the paper's widths,
stored as the first start leaves them. `slimp app` is started on it as a user would, with a headless
Chromium before it where there is one: opening is from the command to the drawn map. Processor
seconds stand beside the clock's: they do not depend on what else the machine does.

Memory is the server's, from /proc (Linux): `peak` is all that was resident at once (VmHWM). It
counts pages of files that are mapped, such as embeddings and libraries, which the system may drop
and which processes share; `private` is what is the server's alone (RssAnon, seen every 10 ms).

    python benchmarks/app.py
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from harness import plain_parser, record
from reads import write_large
from slimp.app.open import Sources, open_explorer
from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.features.feature_table import FeatureTable
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp

WIDTHS = {"image": 384, "lesion": 128}
ASKED = 21
"""Queries of each kind; the first counts apart."""
CHROMIUM = Path("/usr/bin/chromium")
TICK = os.sysconf("SC_CLK_TCK")
FRAME = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
PRESS = """async (code) => {
  const start = performance.now();
  document.querySelector(`[data-column="label"] [data-code="${code}"]`).click();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return performance.now() - start;
}"""
"""Milliseconds from a press on a category's bar to the end of the next frame."""


def main() -> None:
    parser = plain_parser(__doc__, quick="20,000 lesions")
    parser.add_argument("--rows", type=int, default=400_000, help="lesions")
    args = parser.parse_args()
    rows = 20_000 if args.quick else args.rows
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")
        make(place, rows)
        result = {"lesions": rows, **measure(place, rows)}
    for name, value in result.items():
        print(f"{name:34s} {value:12,.2f}" if value is not None else f"{name:34s} not measured")
    if args.out:
        record(args.out, result, "app.py")
    print(json.dumps(result))


def make(folder: Path, rows: int) -> None:
    """A cohort whose first image can be seen, a run, and what a first start leaves."""
    write_large(folder / "cohort", rows)
    picture = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(picture, "JPEG", quality=50)
    with (folder / "cohort" / "images.bin").open("r+b") as file:
        file.write(picture.getvalue())
    cohort = Cohort.load(folder / "cohort")
    level = cohort.schema.level("lesion")
    encodings = {"lesion": Encoding.fit(level, cohort.lesions.iloc[:1000])}
    Slimp(ModelConfig(encoder="vit_small_patch16_224"), encodings).save_pretrained(folder / "run")
    rng = np.random.default_rng(0)
    features = {
        name: rng.standard_normal((rows, width), dtype=np.float32)
        for name, width in {**WIDTHS, "outlier": 4}.items()
    }
    table = FeatureTable(ids=cohort.images, features=features)
    with mock.patch("slimp.features.embed.embed", return_value=table):
        open_explorer(
            Sources(run=folder / "run", cohort=folder / "cohort"),
            lambda title: nullcontext(lambda done, total: None),
        )


def measure(folder: Path, rows: int) -> dict[str, float | None]:
    """Two servers: one for a browser, one for single questions and for what they cost."""
    found: dict[str, float | None] = in_browser(folder)
    with Server(folder) as server:
        found["answers_seconds"] = server.seconds()
        found["answers_cpu_seconds"] = server.cpu()
        found |= {"peak_mib_opened": server.peak(), "private_mib_opened": server.private}
        rng = np.random.default_rng(0)
        some = rng.integers(rows, size=ASKED).tolist()
        for space in WIDTHS:
            paths = [f"/api/neighbours/{row}?space={space}&k=12" for row in some]
            found |= timed(server, f"nearest_{space}", paths)
        found |= timed(server, "find_id", [f"/api/find?id=ISIC_{row:06d}" for row in some])
        found |= {"peak_mib": server.peak(), "private_mib": server.private}
        server.ask("/api/case/0")
        for name in ("first_explanation", "next_explanation"):
            began = time.perf_counter()
            server.ask("/api/explanation/0")
            found[f"{name}_seconds"] = time.perf_counter() - began
        found["peak_mib_with_encoders"] = server.peak()
        found["private_mib_with_encoders"] = server.private
    return found


class Server:
    """`slimp app` in a process of its own, after its page's first questions were answered."""

    def __init__(self, folder: Path) -> None:
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "slimp", "app", str(folder / "run")),
                *("--cohort", str(folder / "cohort"), "--no-browser", "--accelerator", "cpu"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.private, self.proc = 0.0, Path(f"/proc/{self.process.pid}")
        Thread(target=self._watch, daemon=True).start()
        assert self.process.stdout is not None
        self.page = self.process.stdout.readline().strip()
        self.address, _, self.token = self.page.partition("/?token=")

    def __enter__(self) -> Server:
        for path in ("cohort", "groups", "points", "column/label"):
            self.ask(f"/api/{path}")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def ask(self, path: str) -> bytes:
        request = urllib.request.Request(self.address + path, headers={"X-Token": self.token})
        with urllib.request.urlopen(request) as answer:
            content: bytes = answer.read()
        return content

    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def cpu(self) -> float:
        """Seconds of a processor so far."""
        fields = (self.proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def peak(self) -> float:
        return self._mib("VmHWM")

    def _mib(self, name: str) -> float:
        text = (self.proc / "status").read_text()
        return int(text.partition(f"{name}:")[2].split()[0]) / 1024

    def _watch(self) -> None:
        with suppress(OSError, IndexError, ValueError):  # the process has ended
            while True:
                self.private = max(self.private, self._mib("RssAnon"))
                time.sleep(0.01)


def timed(server: Server, name: str, paths: list[str]) -> dict[str, float | None]:
    """Milliseconds of an answer, the median and that of the first, and of a processor."""
    times, before = list[float](), 0.0
    for at, path in enumerate(paths):
        before = server.cpu() if at == 1 else before
        began = time.perf_counter()
        server.ask(path)
        times.append(1000 * (time.perf_counter() - began))
    own = 1000 * (server.cpu() - before) / (len(paths) - 1)
    return {f"{name}_ms": median(times[1:]), f"{name}_first_ms": times[0], f"{name}_cpu_ms": own}


def in_browser(folder: Path) -> dict[str, float | None]:
    """From the command to the drawn map, and from a press to the next frame."""
    names = ("open_seconds", "frame_ms", "filter_ms")
    with browser() as page:
        if page is None:
            return dict.fromkeys(names)
        server = Server(folder)
        try:
            page.goto(server.page)
            page.wait_for_selector("#map .scatter[data-milliseconds]")
            opened = server.seconds()
            page.wait_for_selector("#side .choice", state="attached")
            page.locator("#map .scatter").focus()
            drawn, map_ = list[float](), page.locator("#map .scatter")
            for key in "+-+-+-+-+-":
                page.keyboard.press(key)
                page.evaluate(FRAME)
                drawn.append(float(map_.get_attribute("data-milliseconds")))
            filtered = [page.evaluate(PRESS, code) for code in (0, 1, 0, 1, 0, 1)]
        finally:
            server.__exit__()
    return dict(zip(names, (opened, median(drawn), median(filtered)), strict=True))


@contextmanager
def browser() -> Iterator[Any]:
    """A page in a headless Chromium; None where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        yield None
        return
    if not CHROMIUM.is_file():
        yield None
        return
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        yield found.new_page(viewport={"width": 1280, "height": 800})
        found.close()


if __name__ == "__main__":
    main()
