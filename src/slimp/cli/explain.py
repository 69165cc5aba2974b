"""Maps of what the model looks at, with figures, and what each metadata feature contributes.

Explains how well an image fits the metadata of its own lesion, which is what pre-training makes
large, or with --probe a class. With --masks the maps are scored against lesion masks, beside a spot
in the middle of the image: lesions are centred in most photographs, so that is the figure to beat.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slimp.cli.console import note, progress_bar, say, show_cautions, show_table
from slimp.cli.flags import REQUIRED_FLAG
from slimp.errors import UserError
from slimp.explain.config import ExplainConfig

if TYPE_CHECKING:
    from slimp.data.cohort import Cohort
    from slimp.evaluation.logistic import LinearProbe
    from slimp.explain.explain import Explanation
    from slimp.models.nested import Slimp

EXAMPLE = "slimp explain runs/mine cohorts/mine --masks masks --out explained"
MAIN_FLAGS = ("out", "masks", "methods", "level", "images", "probe", "label", "report")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Inputs and outputs."""

    run: Path
    """Run folder of pre-training, adaptation or fine-tuning."""
    cohort: Path
    """Cohort folder."""
    out: Path = field(metadata=REQUIRED_FLAG)
    """Folder to write."""
    masks: Path | None = None
    """Folder of lesion masks: images named as the cohort's, the lesion white."""
    probe: Path | None = None
    """Folder of slimp probe, made with this run: explain --label in place of the metadata."""
    label: str | None = None
    """Class of the probe."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the encoders run."""
    overwrite: bool = False
    """Replace what is in --out."""
    report: bool = True
    """Also write report.html, which shows some of the images."""
    config: ExplainConfig

    def __post_init__(self) -> None:
        if (self.probe is None) != (self.label is None):
            raise UserError("--probe and --label belong together: a probe, and one of its classes.")


def run(arguments: Arguments) -> None:
    """Explains, writes the folder and prints the tables."""
    from slimp.cli.inputs import noted
    from slimp.data.cohort import Cohort
    from slimp.data.files import check_output, new_folder
    from slimp.explain.explain import explain
    from slimp.report.explanation import write_explanation_report
    from slimp.training.devices import device_of

    out = arguments.out
    check_output(out, overwrite=arguments.overwrite)
    cohort = Cohort.load(arguments.cohort)
    model, probe = _read(arguments)
    with progress_bar("explaining images") as progress:
        found = explain(
            model,
            cohort,
            arguments.config,
            probe=probe,
            masks=arguments.masks,
            device=device_of(arguments.accelerator),
            progress=progress,
        )
    record = {**noted(arguments), "explain": asdict(arguments.config)}
    warnings = _warnings(arguments.run, cohort, found)
    with new_folder(out, overwrite=arguments.overwrite) as folder:
        found.save(folder, record)
        if arguments.report:
            masks = f" --masks {arguments.masks}" if arguments.masks else ""
            command = f"slimp explain {arguments.run} {arguments.cohort}{masks} --out {out}"
            write_explanation_report(
                folder / "report.html", found, cohort, warnings=warnings, command=command
            )
    show_cautions(cohort)
    for warning in warnings:
        note(f"CAUTION: {warning}")
    _show(found)
    say(f"written: {out}")


def _read(arguments: Arguments) -> tuple[Slimp, tuple[LinearProbe, str] | None]:
    from slimp.evaluation.logistic import LinearProbe
    from slimp.models.nested import Slimp
    from slimp.prediction.probe_folder import read_model, read_record
    from slimp.training.weights_run import as_run

    folder, label = arguments.probe, arguments.label
    if folder is None or label is None:
        return Slimp.from_pretrained(as_run(arguments.run)), None
    model = read_model(read_record(folder), as_run(arguments.run), folder)
    return model, (LinearProbe.load(folder), label)


def _warnings(run: Path, cohort: Cohort, found: Explanation) -> list[str]:
    from slimp.evaluation.run_features import parts_of_run
    from slimp.training.parts import LEARNED_FROM
    from slimp.training.weights_run import as_run

    parts = parts_of_run(as_run(run), cohort) or {}
    learned = int(found.by_image["patient_id"].map(parts).isin(LEARNED_FROM).sum())
    if not learned:
        return []
    return [f"The run learned from the patients of {learned} of these {len(found.rows)} images."]


def _show(found: Explanation) -> None:
    from slimp.report.explanation import MEASURES, verdict

    measures = [m for m in MEASURES if any(m in of for of in found.figures.values())]
    rows = [[name, *(of.get(m) for m in measures)] for name, of in found.figures.items()]
    show_table(f"Maps of {len(found.rows)} images: {found.words}", ["map", *measures], rows)
    if len(found.features):
        kinds = [kind for kind in ("fall", "shift") if kind in found.features]
        heads = ["feature", "known", *kinds]
        table = found.features[heads].to_dict("records")
        show_table("Metadata features", heads, [[row[h] for h in heads] for row in table])
    say(verdict(found))
