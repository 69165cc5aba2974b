"""The documentation site: notebooks run, lists are whole, pages fit and load nothing."""

from __future__ import annotations

import importlib.util
import re
import sys
import threading
import tomllib
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import build_site
import pytest
from build_site import ROOT, all_flags, public_names, render

import slimp
from slimp.cli.main import VERBS

NOTEBOOKS = sorted((ROOT / "examples").glob("*.py"))
CHROMIUM = Path("/usr/bin/chromium")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    text = render(path, tmp_path)
    assert text.startswith("# ")
    assert "```text\n" in text
    assert set(re.findall(r"\]\((.*?\.png)\)", text)) == {p.name for p in tmp_path.glob("*.png")}


def test_what_a_notebook_prints_and_draws_is_below_its_cell(tmp_path):
    (tmp_path / "one.py").write_text(
        "# %% [markdown]\n# # Title\n#\n# Words.\n\n# %%\nimport matplotlib.pyplot as plt\n\nx = 2"
        "\nplt.plot([x])\n\n# %%\nprint(x + 1)\nopen('here', 'w').close()\n"
    )
    text = render(tmp_path / "one.py", tmp_path / "out")
    assert text.startswith("# Title\n\nWords.\n\n```python\nimport")
    assert "![Drawn by the lines above](one-1.png)" in text
    assert "open('here', 'w').close()\n```\n\n```text\n3\n```\n" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one.md", "one-1.png"}


def test_every_flag_and_public_name_is_listed():
    flags, names = all_flags(), public_names()
    assert re.findall(r"^## slimp (.*)$", flags, re.MULTILINE) == list(VERBS)
    assert "<code>--learning-rate X</code>" in flags
    assert set(re.findall(r"::: slimp\.(\w+)", names)) == {*slimp.__all__} - {"__version__"}


def test_every_page_is_in_the_navigation_once():
    nav = tomllib.loads((ROOT / "docs" / "zensical.toml").read_text("utf-8"))["project"]["nav"]
    pages = [*(ROOT / "docs").rglob("*.md"), *NOTEBOOKS, ROOT / "examples" / "own_data.md"]
    there = {build_site.place(path) for path in pages} | {*build_site.MOVED.values()}
    assert sorted(re.findall(r"'([\w/-]+\.md)'", str(nav))) == sorted(
        there | {"flags.md", "api.md"}
    )


@pytest.mark.slow
def test_the_site_fits_a_phone_and_loads_nothing_from_elsewhere(tmp_path, monkeypatch):
    if not importlib.util.find_spec("zensical"):
        pytest.skip("zensical is not installed: make docs")
    monkeypatch.setattr(sys, "argv", ["build_site.py", "--quick", "--out", str(tmp_path)])
    build_site.main()  # strict: a link that leads nowhere ends it
    pages = sorted((tmp_path / "site").rglob("*.html"))
    for page in pages:
        text = page.read_text("utf-8")
        assert not re.findall(r"<(?:script|img|iframe|source)[^>]*(?:src|srcset)=\"?https?:", text)
        assert not re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect)[^>]*https?:", text)
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}")
    quiet = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), quiet) as server, sync_api.sync_playwright() as own:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = own.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        seen: list[str] = []
        for width in (1280, 390):
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("request", lambda request: seen.append(request.url))
            page.on("console", lambda said: seen.append(said.text) if said.type == "error" else 0)
            for path in pages:
                page.goto(address + path.relative_to(tmp_path / "site").as_posix())
                over = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                assert page.evaluate(over) <= 0, f"{path.name} at {width}"
        browser.close()
        server.shutdown()
    assert not [what for what in seen if not what.startswith((address, "data:", "blob:"))]
