"""A reader that refuses pages that are not well-formed and self-contained; a small assessment."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

from tables import hinting_features

from slimp.data.cohort import Cohort
from slimp.evaluation.probe_config import ProbeConfig, ProtocolConfig
from slimp.evaluation.protocol import Assessment, assess

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr", "col", "source"}


class Page(HTMLParser):
    """The elements and the visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def shown(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(html: str) -> Page:
    """Reads a page's HTML, and checks what holds for every page."""
    page = Page(html)
    assert html.lstrip().startswith("<!DOCTYPE html>")
    assert "default-src 'none'" in html
    assert "@import" not in html
    styles = html.partition("<style>")[2].partition("</style>")[0]
    for tag, attributes in page.elements:
        styles += f" {attributes.get('style')} {attributes.get('clip-path')}"
        for key in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(key) or "#").startswith(("#", "data:image/jpeg;base64,"))
        assert tag not in ("script", "link")
        assert not [key for key in attributes if key.startswith("on")], tag
    assert "evil" not in styles
    assert not re.search(r"url\((?!#)", styles)
    ids = Counter(a["id"] for _, a in page.elements if "id" in a)
    assert max(ids.values()) == 1
    targets = {a["href"][1:] for _, a in page.elements if (a.get("href") or "").startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", html))
    assert targets <= set(ids)
    assert all(image["alt"] for image in page.of("img"))
    for svg in page.of("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    assert all(th.get("scope") in ("row", "col") for th in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table"))
    assert page.of("html") == [{"lang": "en"}]
    return page


def assessed(cohort: Cohort, protocols: ProtocolConfig | None = None) -> Assessment:
    config = ProbeConfig(
        **{"features": "image", "seeds": 2, "folds": 2, "strengths": (0.01, 1.0), "replicates": 10}
    )
    return assess(hinting_features(cohort), cohort, config, protocols=protocols)
