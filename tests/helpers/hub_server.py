"""A stand-in of the Hugging Face hub's API on this machine: commits in memory, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants as hub
import pytest


@dataclass
class Hub:
    """Repositories, what was asked, and the status that every request gets instead of an answer."""

    address: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Repository -> branch -> file -> content."""
    private: dict[str, bool] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    status: int | None = None
    message: str = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if self.status is not None:
            return self.status, b"{}", {"X-Error-Code": self.message}
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.repositories.setdefault(name, {"main": {}})
            own = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.private.setdefault(name, own)  # `private` is what huggingface_hub 1.0 says
            return 200, json.dumps({"url": f"{self.address}/{name}"}).encode(), {}
        if path == "/api/validate-yaml":
            return 200, b'{"warnings": [], "errors": []}', {}
        pattern = r"/(?:api/models/)?([\w.-]+/[\w.-]+)/(\w+)/([^/]+)(?:/(.*))?"
        if (parts := re.fullmatch(pattern, path)) is None:
            return 501, path.encode(), {}
        repo, what, revision, rest = parts.groups()
        branches = self.repositories.get(repo)
        if branches is None:
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        if what == "branch":
            branches.setdefault(revision, dict(branches["main"]))
            return 200, b"{}", {}
        found = {commit_of(files): files for files in branches.values()} | branches
        if revision not in found:
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
        files = found[revision]
        return getattr(self, f"_{what}")(repo, files, rest, body)

    def _revision(self, repo: str, files: dict[str, bytes], *_: object):
        content = {"id": repo, "sha": commit_of(files), "siblings": [], "private": False}
        return 200, json.dumps(content).encode(), {}

    def _tree(self, repo: str, files: dict[str, bytes], *_: object):
        rows = [
            {"type": "file", "path": name, "size": len(x), "oid": hashlib.sha1(x).hexdigest()}
            for name, x in files.items()
        ]
        return 200, json.dumps(rows).encode(), {}

    def _resolve(self, repo: str, files: dict[str, bytes], rest: str, _: bytes):
        content = files[unquote(rest)]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        return 200, content, {"ETag": etag, "X-Repo-Commit": commit_of(files)}

    def _preupload(self, repo: str, files: dict[str, bytes], rest: str, body: bytes):
        listed = [
            {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
            for f in json.loads(body)["files"]
        ]
        return 200, json.dumps({"files": listed}).encode(), {}

    def _commit(self, repo: str, files: dict[str, bytes], rest: str, body: bytes):
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        oid = commit_of(files)
        content = {"commitUrl": f"{self.address}/{repo}/commit/{oid}", "commitOid": oid}
        return 200, json.dumps({**content, "success": True}).encode(), {}


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(b"".join(n.encode() + x for n, x in sorted(files.items()))).hexdigest()


@contextmanager
def hub_server(monkeypatch: pytest.MonkeyPatch, cache: str) -> Iterator[Hub]:
    """A hub that huggingface_hub talks to, and a cache of its own."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            state.asked.append(f"{self.command} {path}")
            status, content, headers = state.answer(self.command, path, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(hub, "ENDPOINT", state.address)
    monkeypatch.setattr(hub, "HUGGINGFACE_CO_URL_TEMPLATE", state.address + URL)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", cache)
    monkeypatch.setenv("HF_TOKEN", "hf_standin")
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


URL = "/{repo_id}/resolve/{revision}/{filename}"
