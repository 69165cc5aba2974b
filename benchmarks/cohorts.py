"""The cohorts that benchmarks run on: real ones where there are any, drawn ones, or a folder."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from slimp.data.cohort import Cohort
from slimp.sources import import_source
from slimp.sources.synthetic.cohort import SyntheticConfig, synthesize

SYNTHETIC = {
    "synthetic": SyntheticConfig(patients=400, lesions=4),
    "synthetic-clinic": SyntheticConfig(
        patients=300, lesions=2, seed=1, nuisance_columns=2, clinic_cast=0.12
    ),
}
"""Drawn cohorts: the reference, and a clinic with other people, cameras and columns."""
REAL = {"pad-ufes-20": "pad-ufes-20", "ham10000": "ham10000"}


def add_cohort(parser: argparse.ArgumentParser, *, real: str) -> None:
    """`--cohort`, by default a real one where there are any."""
    parser.add_argument(
        "--cohort",
        default=real if real_data() else "synthetic",
        help="synthetic, synthetic-clinic, pad-ufes-20, ham10000 or a cohort folder",
    )


def real_data() -> Path | None:
    """The folder with real images, where there is one."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SLIMP_TEST_DATA", beside))
    return folder if (folder / "README.md").is_file() else None


def load_cohort(name: str) -> Cohort:
    if name in SYNTHETIC:
        return synthesize(SYNTHETIC[name])
    if name not in REAL:
        return Cohort.load(name)
    if (data := real_data()) is None:
        sys.exit(f"no real data for {name}: set SLIMP_TEST_DATA, or pass a cohort folder")
    folder = Path(tempfile.mkdtemp()) / name
    return import_source(name, data / REAL[name], folder)
