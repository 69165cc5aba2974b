"""A run, and a probe of it, as ONNX graphs that need neither slimp nor PyTorch.

Writes the image encoder, a tabular encoder per level, the probe, export.json (preprocessing, table
coding, decision rule) and reader.py, which needs numpy, pillow and onnxruntime alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import slimp
from slimp.cli.console import note, say
from slimp.cli.inputs import Output, noted
from slimp.errors import UserError

EXAMPLE = "slimp export onnx runs/mine --probe probes/mine --out deployed"


@dataclass(frozen=True, kw_only=True)
class Arguments(Output):
    """Inputs and outputs."""

    run: Path
    """Run folder, or weights:NAME, a published encoder as it is."""
    probe: Path | None = None
    """Folder of slimp probe on this run, of any features but relative."""
    cohort: Path | None = None
    """Cohort folder on whose images the export is compared with PyTorch."""
    int8: bool = False
    """Matrix products of the image encoder in 8 bits; --cohort measures what that loses."""

    def __post_init__(self) -> None:
        if self.int8 and self.cohort is None:
            raise UserError("--int8 loses accuracy: pass --cohort COHORT to measure how much.")


def run(arguments: Arguments) -> None:
    """Exports, and prints what was written and measured."""
    from slimp.data.files import new_folder, write_json
    from slimp.prediction.onnx_export import export_onnx
    from slimp.prediction.output import STATEMENT
    from slimp.training.weights_run import as_run

    out, run = arguments.out, as_run(arguments.run)
    with new_folder(out, overwrite=arguments.overwrite) as folder:
        cohort = None if arguments.cohort is None else slimp.Cohort.load(arguments.cohort)
        probe = None
        if arguments.probe is not None:
            probe = slimp.Predictor.load(arguments.probe, run=run)
        model = slimp.Slimp.from_pretrained(run) if probe is None else probe.model
        found = export_onnx(folder, model, probe, int8=arguments.int8, cohort=cohort)
        write_json(folder / "config.json", noted(arguments))
        graphs = {path.name: path.stat().st_size for path in sorted(folder.glob("*.onnx"))}
    for name, size in graphs.items():
        say(f"{name}: {size / 1e6:.1f} MB, opset {found['opset']}")
    for name, value in found.get("compared", {}).items():
        say(f"{name.replace('_', ' ')}: {value}")
    say(f"written: {out}")
    note(STATEMENT)
