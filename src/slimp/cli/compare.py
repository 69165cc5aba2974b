"""Whether one probe is better than another on the same patients: a paired bootstrap.

A and B are folders of `slimp probe`. Each replicate tests both probes on the same patients, drawn
with replacement; so what makes a patient hard for both does not blur the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slimp.cli.console import note, say, show_table
from slimp.cli.inputs import noted
from slimp.data.config import require_positive

EXAMPLE = "slimp compare probes/clinic probes/mine"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    a: Path
    """Folder of one probe; probes/mine-{fold} joins those of runs that held out a fold each."""
    b: Path
    """Folder of the other; differences are A minus B."""
    out: Path | None = None
    """Folder for metrics.json and config.json; without it, results are only printed."""
    overwrite: bool = False
    """Replace what is in --out."""
    replicates: int = 2000
    """Bootstrap replicates over patients."""
    seed: int = 0
    """Random seed."""

    def __post_init__(self) -> None:
        require_positive(self, "replicates")


def run(arguments: Arguments) -> None:
    """Compares, prints the table and writes the folder if asked."""
    from slimp.data.files import check_output, write_json
    from slimp.evaluation.paired_bootstrap import compare, read_predictions, resampling_unit

    out = arguments.out
    if out is not None:
        check_output(out, overwrite=arguments.overwrite)
    a, b = read_predictions(arguments.a), read_predictions(arguments.b)
    found = compare(a, b, replicates=arguments.replicates, seed=arguments.seed)
    if (rules := [table["decision"].iloc[0] for table in (a, b)])[0] != rules[1]:
        say(f"CAUTION: decided by different rules, A: {rules[0]}, B: {rules[1]}.")
    if found.only_a or found.only_b:
        note(f"left out: {found.only_a} prediction(s) only in A, {found.only_b} only in B")
    unit = resampling_unit(arguments.a)
    say(f"{found.images} predictions in both, of {found.patients} {unit}; A: {arguments.a}")
    show_table(
        f"A minus B, with 95 % interval over {unit}",
        ["metric", "A", "B", "difference", "p", "effect size"],
        [
            (name, row.a, row.b, row, f"{row.p_value:.4f}", f"{row.effect_size:+.2f}")
            for name, row in found.differences.items()
        ],
    )
    if out is not None:
        write_json(out / "metrics.json", found.to_dict())
        write_json(out / "config.json", noted(arguments))
        say(f"written: {out}")
