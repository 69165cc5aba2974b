"""The page about a run: what was trained on what, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from slimp.checks.report import cautions as audit_cautions
from slimp.data.cohort import Cohort
from slimp.data.files import read_json
from slimp.errors import UserError
from slimp.evaluation.protocol import PROTOCOLS, Assessment
from slimp.evaluation.similarity import Similarity
from slimp.features.feature_table import FeatureTable
from slimp.report import sections
from slimp.report.examples import draw_examples
from slimp.report.figures import curve_figures
from slimp.report.html import count, estimate, number, write_page
from slimp.report.sections import Run
from slimp.training.parts import parts_of_run
from slimp.training.run_folder import read_log, versions
from slimp.training.validation import CHANCE

STAGES = {"finetune": "fine-tuned on", "adapt": "adapted to", "pretrain": "pre-trained on"}
"""Section of a run's `config.json` -> what was done on the cohort, in words; the last one first."""


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """How a page is made, whatever it shows."""

    command: str = ""
    """The line that made it, for the footer."""
    date: datetime | None = None
    """In the footer; None: now."""
    images: bool = True
    """Show example lesions. Switch it off for a shareable report."""
    seed: int = 0
    """Random seed of the map and the examples."""


def write_report(
    target: str | Path,
    run: str | Path,
    cohort: Cohort,
    found: Assessment | None = None,
    *,
    table: FeatureTable | None = None,
    similarity: Mapping[Any, Similarity] | None = None,
    options: PageOptions | None = None,
) -> Path:
    """Where the report lies: one HTML file that needs nothing else, the same for the same input.

    Whatever is not given leaves its section out, with a sentence saying so.

    Args:
        target: file to write, replaced if it exists.
        run: folder of the run; its settings, log and parts are read.
        cohort: the data that the run and the probes are about.
        found: what was measured; the result for the largest feature set is the headline's.
        table: features of the cohort, for the map.
        similarity: level -> similarity, as `similarity_by_level` gives it on held-out patients.
        options: footer, images and seed.

    Raises:
        UserError: `run` is missing or damaged, or `found` is of another cohort.
    """
    options, trained = options or PageOptions(), read_run(Path(run), cohort)
    content: dict[str, Any] = dict.fromkeys(
        ("best", "scores", "confusion", "reliability", "examples", *PROTOCOLS)
    )
    if found is not None:
        content |= {
            "best": list(found.probes)[-1],
            "scores": sections.scores(found),
            "confusion": sections.confusion(found.main),
            "reliability": sections.calibration(found.main),
            "low_shot": found.low_shot and sections.low_shot(found.low_shot),
            **{"missing_grid": found.missing_grid, "leakage": found.leakage},
            "subgroups": found.subgroups and sections.subgroups(found.subgroups),
        }
        if options.images:
            content["examples"] = draw_examples(found.main, cohort, options.seed)
    return write_page(
        Path(target),
        "page.html.j2",
        title=f"{cohort.info.name}: {trained.purpose}",
        lead=_lead(trained, cohort, found),
        cautions=[*audit_cautions(cohort), *(found.cautions if found else [])],
        command=options.command,
        date=options.date,
        versions=trained.versions,
        facts=_facts(cohort, found),
        unit=cohort.unit.capitalize(),
        similarity=sections.similarity(similarity or {}),
        map=sections.embedding_map(table, trained, cohort.unit, options.seed),
        curves=curve_figures(trained.log, _chance(cohort, trained)),
        **content,
        **sections.data(cohort, trained),
        **sections.configuration(trained),
    )


def read_run(folder: Path, cohort: Cohort) -> Run:
    """What a run folder says about itself and about the cohort's patients.

    Raises:
        UserError: there is no such folder, or a file in it is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run folder. Make one with: slimp pretrain.")
    settings = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    parts, latest, here = None, False, cohort.patients["patient_id"]
    if (path := folder / "patients.parquet").is_file():
        parts = pd.read_parquet(path)
        if not (latest := bool(parts["patient_id"].isin(here).any())):
            earlier = (parts_of_run(folder, cohort) or {}).items()
            parts = pd.DataFrame(earlier, columns=["patient_id", "part"])
            parts = parts if parts["patient_id"].isin(here).any() else None
    stage = next((name for name in STAGES if name in settings), "pretrain")
    return Run(
        config=settings.get("weights", {}) | settings.get("pretrain", {}) | settings.get(stage, {}),
        verb=STAGES[stage],
        purpose="fine-tuning" if stage == "finetune" else "nested contrastive pre-training",
        versions=settings.get("versions") or versions(),
        log=pd.DataFrame(read_log(folder)),
        parts=parts,
        latest=latest,
    )


def _chance(cohort: Cohort, run: Run) -> dict[str, float]:
    """Column of the log -> its value by chance: of recall as logged, of the vote by the classes.

    How many classes a log of another cohort is of is not known.
    """
    logged = [name for name in map(str, run.log.columns) if name.startswith(CHANCE)]
    found = {name.removeprefix(CHANCE): float(run.log[name].dropna().iloc[-1]) for name in logged}
    if run.parts is not None and run.latest and cohort.classes:
        found["knn_balanced_accuracy"] = 1 / len(cohort.classes)
    return found


def _facts(cohort: Cohort, found: Assessment | None) -> list[tuple[str, str, str]]:
    """(heading, figure, detail) for the top of the page."""
    lesions = f"{count(len(cohort.lesions))} lesions"
    classes = f"{len(cohort.classes)} classes" if cohort.classes else "without labels"
    facts = [("Lesions", count(len(cohort.lesions)), "no patient ids")]
    if cohort.has_patient_ids:
        facts = [("Patients", count(len(cohort.patients)), lesions)]
    facts.append(("Images", count(len(cohort)), classes))
    if found is not None:
        said = found.main.predictions
        tested, of = (said[name].nunique() for name in ("image_id", "patient_id"))
        facts.append(("Tested on", f"{count(tested)} images", f"of {count(of)} {found.unit}"))
        baseline = found.verdict.baseline
        for heading, result in (
            (f"Balanced accuracy, {list(found.probes)[-1]}", found.main),
            (f"Best baseline, {baseline}", found.baselines[baseline]),
        ):
            low, high = map(number, result.balanced_accuracy.ci95)
            interval = f"95 % interval {low} to {high}"
            facts.append((heading, number(result.balanced_accuracy.mean), interval))
    return facts


def _lead(run: Run, cohort: Cohort, found: Assessment | None) -> str:
    """Whether the features are ahead of what needs no image; then what was trained on what."""
    published = run.log.empty and bool(run.config.get("encoder_weights"))
    made = _made(run, cohort, published=published)
    if found is None:
        return f"{made}; no probe has measured what its features are worth."
    best, difference = found.verdict.baseline, found.verdict.difference
    low, high = difference.ci95
    answer = "are ahead of" if low > 0 else "fall short of" if high < 0 else "are not told from"
    seen = found.saw_test_patients is not False
    tested = "test images" if seen else f"{found.unit} that pre-training never saw"
    baseline = number(found.baselines[best].balanced_accuracy.mean)
    gain = f"{found.gain.sentence} " if found.gain else ""
    return (
        f"The features “{list(found.probes)[-1]}” {answer} the best baseline without them, {best}: "
        f"{difference.difference:+.3f} ({low:+.3f} to {high:+.3f}) in balanced accuracy. "
        f"A probe of them reaches {estimate(found.main.balanced_accuracy)} on {tested}, that "
        f"baseline {baseline}. "
        f"{gain}{made}."
    )


def _made(run: Run, cohort: Cohort, *, published: bool) -> str:
    """What was trained on what."""
    name, encoder = cohort.info.name, run.config.get("encoder", "An image encoder")
    if published:
        return f"{encoder} with published weights as they are, applied to {name}"
    if run.parts is None:
        return f"{encoder}, pre-trained on other patients as far as ids tell, applied to {name}"
    rows = cohort.images["patient_id"].isin(run.parts.query("part == 'train'")["patient_id"])
    size = f"{count(rows.sum())} images"
    if cohort.has_patient_ids:
        patients = cohort.images["patient_id"][rows].nunique()
        size = f"{count(patients)} patients ({size})"
    if not run.latest:
        return f"{encoder}, trained on {size} of {name}, then on others"
    return f"{encoder}, {run.verb} {size} of {name}"
