"""Probabilities, conformal sets and nearest cases of new images, by a saved probe.

IMAGES are files, or folders with all images in them. A picture that is far from anything the probe
learned from gets no probabilities. Research software, not a medical device; not for diagnosis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import slimp
from slimp.cli.console import note, progress_bar, say, show_table
from slimp.cli.inputs import OnDevice, check_file, noted
from slimp.errors import UserError
from slimp.prediction.config import PredictConfig

if TYPE_CHECKING:
    from slimp.prediction.inputs import Metadata
    from slimp.prediction.result import Prediction

EXAMPLE = "slimp predict probes/mine new_images --metadata new.csv --out predicted.csv"


@dataclass(frozen=True, kw_only=True)
class Arguments(OnDevice):
    """Inputs and outputs."""

    probe: Path
    """Folder of slimp probe or finetune, or a bundle with a probe."""
    images: tuple[Path, ...]
    """Image files, and folders of images."""
    metadata: Path | None = None
    """Table (CSV, Parquet or spreadsheet) with a column 'image', and columns as in the cohort's
    table, in its units; 'patient' and 'lesion' say which images --features relative compares."""
    run: Path | None = None
    """Run folder of the encoders, if it is no longer where the probe says."""
    out: Path | None = None
    """File to write, .json, .csv or .parquet; FILE.config.json is written beside it."""
    explain: Path | None = None
    """Folder for a picture per predicted image: what its class rests on."""
    overwrite: bool = False
    """Replace --out and --explain."""
    format: Literal["table", "json"] = "table"
    """Of what is printed."""
    config: PredictConfig

    def __post_init__(self) -> None:
        if self.out is not None and self.out.suffix not in (".json", ".csv", ".parquet"):
            raise UserError(f"--out {self.out}: its ending must be .json, .csv or .parquet.")


def run(arguments: Arguments) -> None:
    """Predicts, prints and writes."""
    import json

    from slimp.data.files import check_output, new_folder
    from slimp.prediction.inputs import find_images
    from slimp.prediction.output import STATEMENT, to_dict

    out = arguments.out
    if out is not None:
        check_file(out, overwrite=arguments.overwrite)
    if arguments.explain is not None:
        check_output(arguments.explain, overwrite=arguments.overwrite)
    paths = find_images(arguments.images)
    predictor = slimp.Predictor.load(
        arguments.probe, arguments.config, run=arguments.run, device=arguments.device
    )
    if arguments.explain is not None:
        from slimp.report.overlays import require_map, write_overlays

        require_map(predictor)
    metadata = predictor.metadata(arguments.metadata, paths)
    if predictor.compares and (metadata is None or metadata.owners is None):
        note("no column 'patient' in --metadata: no lesion is compared with others of its patient")
    if metadata is None and predictor.reads:
        note("no --metadata: all cells count as missing, which this probe learned to do with")
    if arguments.metadata is not None and metadata is None:
        note(f"--metadata has no effect: this probe reads images alone ({arguments.probe})")
    if metadata is not None and metadata.unread:
        note(f"columns that the probe does not read: {', '.join(metadata.unread)}")
    if metadata is not None and metadata.absent:
        note(f"columns that the table has not, counted as missing: {', '.join(metadata.absent)}")
    if metadata is not None and metadata.others:
        rows = f"{len(metadata.others)} row(s) of --metadata, such as '{metadata.others[0]}'"
        note(f"{rows}, are about none of these images")
    predictions = []
    with progress_bar("predicting") as progress:
        for prediction in predictor.stream(paths, metadata):
            predictions.append(prediction)
            progress(len(predictions), len(paths))
    if arguments.format == "json":
        found = to_dict(predictor, predictions, metadata)
        say(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print(predictor, predictions, metadata)
    if out is not None:
        _write(out, arguments, predictor, predictions, metadata)
        note(f"written: {out}")
    if (folder := arguments.explain) is not None:
        with new_folder(folder, overwrite=arguments.overwrite) as partial:
            drawn = write_overlays(partial, predictor, predictions)
        note(f"written: {folder}, {len(drawn)} picture(s)")
    note(STATEMENT)
    if all(prediction.status == "unreadable" for prediction in predictions):
        raise UserError(
            f"none of the {len(paths)} file(s) could be read as an image, such as "
            f"{predictions[0].image}: {predictions[0].reason}"
        )


def _write(
    out: Path,
    arguments: Arguments,
    predictor: slimp.Predictor,
    predictions: Sequence[Prediction],
    metadata: Metadata | None,
) -> None:
    from slimp.data.files import new_file, write_json
    from slimp.prediction.output import to_dict, to_frame

    content = to_dict(predictor, predictions, metadata)
    if out.suffix == ".json":
        write_json(out, content)
    else:
        frame = to_frame(predictor, predictions)
        with new_file(out) as partial:
            if out.suffix == ".csv":
                frame.to_csv(partial, index=False)
            else:
                frame.to_parquet(partial, index=False)
    record = {
        "predict": asdict(arguments.config),
        **noted(arguments),
        **content,
        "images": [prediction.image for prediction in predictions],
    }
    write_json(out.with_name(f"{out.stem}.config.json"), record)


def _print(
    predictor: slimp.Predictor, predictions: Sequence[Prediction], metadata: Metadata | None
) -> None:
    from slimp.prediction.output import cautions, without_sets

    conformal, verified = predictor.conformal, predictor.verified
    unit = predictor.record["unit"]
    show_table(
        f"predictions by a probe of '{predictor.probe.features}' features",
        ["image", "decision", "probability", f"{conformal.coverage:.0%} set", "nearest", "p"],
        map(_row, predictions),
    )
    shares = zip(predictor.probe.classes, predictor.probe.priors, strict=True)
    shown = ", ".join(f"{name} {share:.1%}" for name, share in shares)
    say(f"decision: {predictor.decision_rule}; these are: {shown}")
    counts = {s: sum(p.status == s for p in predictions) for s in ("refused", "unreadable")}
    if any(counts.values()):
        say(", ".join(f"{count} {status}" for status, count in counts.items() if count))
    if not without_sets(predictions):
        say(
            f"sets contain the true class for {conformal.coverage:.0%} of images of new {unit} "
            f"like those of calibration{', for each class' * conformal.per_class}; verified: "
            f"{verified.coverage} on {verified.n} images of {verified.n_patients} held-out {unit}"
        )
        if always := predictor.always_in_the_set:
            say(f"always in the set, with too few calibration {unit}: {', '.join(always)}")
    for caution in cautions(predictor, predictions, metadata):
        say(f"CAUTION: {caution}")


def _row(found: Prediction) -> tuple[str, ...]:
    p = "" if found.novelty_p is None else f"{found.novelty_p:.3f}"
    if found.decision is None:
        return (found.image, found.status, "", "", found.reason, p)
    nearest = "; ".join(f"{c.label} {c.image_id} {c.similarity:.2f}" for c in found.nearest)
    if found.unseen:
        unseen = ", ".join(f"{k} '{v}'" for k, v in found.unseen.items())
        nearest += f" (unlike what the model learned from, so counted as missing: {unseen})"
    chance = f"{found.probabilities[found.decision]:.2f}"
    return (found.image, found.decision, chance, ", ".join(found.conformal_set), nearest, p)
