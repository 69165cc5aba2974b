"""Fetches a model from the Hugging Face hub into a run folder.

Safetensors, JSON and the card alone are fetched, never pickles. Verbs that take a RUN take
OWNER/NAME too, and keep it in the hub's own cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import slimp
from slimp.cli.console import say
from slimp.cli.inputs import Output

EXAMPLE = "slimp pull clinic/slimp-mine --out runs/theirs"


@dataclass(frozen=True, kw_only=True)
class Arguments(Output):
    """Inputs and outputs."""

    repo_id: str
    """OWNER/NAME, or OWNER/NAME@REVISION."""
    revision: str | None = None
    """Branch, tag or commit. Default: the newest."""


def run(arguments: Arguments) -> None:
    """Fetches, verifies that it is a model, and writes the folder."""
    import shutil

    from slimp.data.files import new_folder
    from slimp.models.hub import FILES, download

    out = arguments.out
    with new_folder(out, overwrite=arguments.overwrite) as partial:
        found = download(arguments.repo_id, arguments.revision)
        slimp.Slimp.from_pretrained(found)
        for name in FILES:
            if (found / name).is_file():
                shutil.copyfile(found / name, partial / name)
    say(f"written: {out}; next: slimp embed {out} COHORT --out FILE.parquet")
