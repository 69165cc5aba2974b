"""Sends a run to the Hugging Face hub, with a model card; --dry-run shows all and sends nothing.

What goes up: model.safetensors (the weights), model.json (architecture; the metadata columns with
their categories, means and deviations), config.json (settings, without places of this machine) and
README.md (the card). Of --probe only its scores do, in the card, of groups of 10 patients or more.
No ids, cells, images or features of patients. A new repository is private unless --public; log in
first: hf auth login.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimp.cli.console import say

EXAMPLE = "slimp push runs/mine clinic/slimp-mine --probe probes/mine --dry-run"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    run: Path
    """Run folder."""
    repo_id: str
    """OWNER/NAME on the hub."""
    probe: Path | None = None
    """Folder of slimp probe or finetune, of this run: its scores are shown in the card."""
    licence: str = "not stated"
    """Of the weights, for you to state; known names are such as cc-by-nc-4.0."""
    revision: str | None = None
    """Branch to write, made if it is not there. Default: the main one."""
    public: bool = False
    """Make a new repository public; one that exists keeps its visibility."""
    dry_run: bool = False
    """List the files and print the card, and send nothing."""


def run(arguments: Arguments) -> None:
    """Shows or sends."""
    from slimp.models.hub import FILES, hub_name, upload
    from slimp.prediction.bundle import release
    from slimp.training.weights_run import as_run

    name = arguments.repo_id
    hub_name(name)  # refuses before anything is written
    with release(
        as_run(arguments.run), name=name, probe=arguments.probe, licence=arguments.licence
    ) as folder:
        if arguments.dry_run:
            for file in FILES:
                say(f"{file}: {(folder / file).stat().st_size:,} bytes")
            say("\n" + (folder / "README.md").read_text(encoding="utf-8"))
            return
        address = upload(folder, name, public=arguments.public, revision=arguments.revision)
    say(f"written: {address}")
