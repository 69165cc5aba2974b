"""The lesion explorer: a local page of a cohort as a run sees it.

Shows a map of the embeddings, the images, each case with its nearest ones, and with --probe what a
probe predicts. The page is served on this machine alone unless --host says otherwise, to whoever
has the address that is printed. Nothing is written to the run or the cohort. Research software, not
a medical device; not for diagnosis.
"""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from slimp.cli.console import note, progress_bar, say
from slimp.cli.flags import REQUIRED_FLAG
from slimp.cli.inputs import OnDevice
from slimp.errors import UserError

EXAMPLE = "slimp app runs/mine --cohort cohorts/mine --probe probes/mine"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Inputs and outputs."""

    run: Path
    """Run folder, or weights:NAME, a published encoder as it is."""
    cohort: Path = field(metadata=REQUIRED_FLAG)
    """Cohort folder."""
    probe: Path | None = None
    """Folder of slimp probe, made with this run: show what it predicts, and predict new images."""
    compare: Path | None = None
    """Another run: show how far its neighbours are the same."""
    data_check: bool = False
    """Check the cohort first, as slimp data check does, and show the findings with their cases."""
    embeddings: Path | None = None
    """File of slimp embed, of this run and this cohort, in place of embedding again."""
    projection: Literal["pca", "umap"] = "pca"
    """Of the map; umap: computed once, takes minutes (pip install 'slimp[umap]')."""
    host: str = "127.0.0.1"
    """Address to serve on; any but 127.0.0.1 lets other machines in, and is not encrypted."""
    port: int = 0
    """Port to serve on; 0: any that is free."""
    browser: bool = True
    """Open the page in the browser."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 2**16:
            raise UserError(f"--port must be 0 to {2**16 - 1}, got {self.port}.")


def run(arguments: Arguments) -> None:
    """Opens the cohort and serves until it is interrupted."""
    import secrets
    import webbrowser
    from threading import Thread

    _require_extra()
    import uvicorn

    from slimp.app.open import Sources, open_explorer
    from slimp.app.server import create_app
    from slimp.training.config import values_of

    explorer = open_explorer(Sources(**values_of(arguments, Sources)), progress_bar)
    token, host = secrets.token_urlsafe(), arguments.host
    listening = _listen(host, arguments.port)
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{listening.getsockname()[1]}/?token={token}"
    if host not in LOOPBACK:
        note(f"CAUTION: other machines can reach {host}, and what is sent is not encrypted")
    settings = uvicorn.Config(
        create_app(explorer, token, [host]),
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
    )
    say(address)
    sys.stdout.flush()  # whoever started this by a pipe needs the address now
    note("Ctrl-C ends it. Research software, not for diagnosis.")
    if arguments.browser:
        webbrowser.open(address)
    Thread(target=explorer.prepare, daemon=True).start()
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:
        note("stopped")


def _require_extra() -> None:
    from importlib.util import find_spec

    from slimp.cli.doctor import EXTRAS

    missing = [name for name in EXTRAS["app"] if find_spec(name) is None]
    if missing:
        raise UserError(
            f"slimp app needs the package {missing[0]}. Install it: pip install 'slimp[app]'."
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # who calls before the server is ready waits
    except OSError as error:
        listening.close()
        raise UserError(
            f"--host {host} --port {port}: cannot be served on ({error.strerror or error}). "
            "Choose another port, or 0 for any that is free."
        ) from None
    return listening
