"""The three acts of the demo: what is drawn, trained and compared.

Every comparison is decided beforehand: an arm, its control, the same test patients. What comes of
it is the sign of a paired 95 % interval, in words; a claim that is not shown is said not to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from slimp.cli.probe import Arguments, make
from slimp.data.cohort import Cohort
from slimp.data.files import check_output, new_folder, write_json
from slimp.errors import UserError
from slimp.evaluation.added_worth import added_worth
from slimp.evaluation.bootstrap import Estimate
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.paired_bootstrap import compare
from slimp.evaluation.probe_config import FullProbeConfig, ProbeConfig
from slimp.evaluation.protocol import Assessment
from slimp.evaluation.result import ProbeResult, make_task
from slimp.evaluation.run_features import cached_features
from slimp.features.embed import embed, with_pseudo_metadata
from slimp.features.feature_sets import FeatureSet
from slimp.features.feature_table import FeatureTable
from slimp.models.nested import Slimp
from slimp.report.html import estimate, track, write_page
from slimp.report.retrieval import write_retrieval_report
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.extrapolate import extrapolate
from slimp.retrieval.index import EmbeddedCohort
from slimp.sources.synthetic.cohort import synthesize
from slimp.sources.synthetic.config import SyntheticConfig
from slimp.training.adapt import adapt
from slimp.training.config import AdaptConfig, PretrainConfig, RunConfig, values_of
from slimp.training.loop import pretrain
from slimp.training.parts import parts_of_run
from slimp.training.run_folder import versions

FEATURES: dict[str, FeatureSet] = {"images": "image", "images + metadata": "full"}
EASY: dict[str, Any] = {"ambiguity": 0.15, "spread": 0.06, "lighting": 0.06, "label_noise": 0.0}
"""Drawn clearer than the synthetic cohort's defaults, so that minutes of training suffice."""
FLAT: dict[str, Any] = {"hierarchy": "flat", "lesion_weight": 1.0, "patient_weight": 0.0}


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Sizes, chosen for many test patients: most of a cohort is held out."""

    patients: int = 420
    """Drawn in the domain of the reference; 30 % are those of the similar clinic."""
    clinic: int = 300
    """Patients of the clinic with other cameras and fewer columns; a fifth of them train."""
    lesions: int = 4
    """Per patient, on average."""
    image_size: int = 48
    """Side of the images, px."""
    epochs: int = 12
    """Of each training on the reference; half of them on the clinic."""
    neighbours: int = 10
    """Of the reference, from which a value is imputed."""
    encoder: Mapping[str, Any] = field(default_factory=dict)
    """Other settings of pre-training than those of the preset `tiny`."""

    def pretrain(self, seed: int) -> PretrainConfig:
        """Settings of every training from scratch."""
        changes = {
            "seed": seed,
            "epochs": self.epochs,
            "image_size": self.image_size,
            "patients": 16,  # small batches: more steps in the same time
            "feature_dropout": 0.1,  # with more, flat pre-training barely begins in so few epochs
            "validation_fraction": 0.0,
            "held_out_fraction": 0.5,
            **self.encoder,
        }
        return PretrainConfig.from_preset("tiny", **changes)

    def cohorts(self, seed: int) -> dict[str, Cohort]:
        """The reference, a clinic like it, and one with other people, cameras and columns."""
        domain = SyntheticConfig(
            patients=self.patients,
            lesions=self.lesions,
            image_size=self.image_size,
            seed=seed,
            **EASY,
        )
        other = replace(
            domain,
            seed=seed + 1,
            patients=self.clinic,
            lesions=max(1, self.lesions - 1),
            nuisance_columns=2,
            clinic_cast=2 * domain.clinic_cast,
        )
        parts = synthesize(domain).split({"reference": 0.7, "similar": 0.3}, seed=seed)
        return {**parts, "clinic": synthesize(other)}


@dataclass(kw_only=True)
class Act:
    """Arms with their scores, and what comes of comparing them."""

    title: str
    arms: dict[str, ProbeResult] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    """A sentence per claim, with its paired interval, and what else decides."""
    differences: list[dict[str, Any]] = field(default_factory=list)
    """The claims for `metrics.json`."""

    def claim(self, arm: str, control: str) -> None:
        """Compares two arms on the same patients; the interval decides what is shown."""
        a, b = (self.arms[name].predictions for name in (arm, control))
        found = compare(a, b, headline_only=True)
        row = found.differences["balanced_accuracy"]
        low, high = row.ci95
        verdict = "not shown at this size"
        if low > 0 or high < 0:
            verdict = "shown" if low > 0 else "the opposite is shown"
        self.findings.append(
            f"{verdict}: '{arm}' above '{control}', difference {row.difference:+.3f} "
            f"[{low:+.3f}, {high:+.3f}] (95 % interval, paired over {found.patients} patients)."
        )
        self.differences.append({"arm": arm, "minus": control, **row.to_dict(), "verdict": verdict})

    def scores(self) -> dict[str, Estimate]:
        """The balanced accuracy of each arm."""
        return {arm: result.balanced_accuracy for arm, result in self.arms.items()}

    def tracks(self) -> list[tuple[str, Markup, str]]:
        """A row per arm for the page, with a scale between."""
        return [(arm, track(score), estimate(score)) for arm, score in self.scores().items()]

    def to_dict(self) -> dict[str, Any]:
        """For `metrics.json`."""
        scores = {arm: score.to_dict() for arm, score in self.scores().items()}
        return {"title": self.title, "arms": scores, "differences": self.differences}


def run_demo(
    out: Path, *, seed: int = 0, overwrite: bool = False, config: DemoConfig | None = None
) -> tuple[Act, ...]:
    """Runs the three acts and leaves them in `out`.

    There lie `config.json`, `metrics.json`, `report.html`, and per cohort (`reference/ similar/
    clinic/`) the cohort, its runs, its probe and what was imputed.

    Raises:
        UserError: `out` is not empty and `overwrite` is off.
    """
    config = config or DemoConfig()
    check_output(out, overwrite=overwrite)
    with new_folder(out, overwrite=overwrite) as empty:  # the parts below fill it
        record = {"demo": asdict(config), "seed": seed, "versions": versions()}
        write_json(empty / "config.json", record)
    for name, cohort in config.cohorts(seed).items():
        cohort.save(out / name / "cohort")
    settings = config.pretrain(seed)
    acts = (
        _pretraining(out / "reference", settings),
        _adaptation(out / "clinic", out / "reference", settings),
        _imputation(out, RetrievalConfig(impute="all", k=config.neighbours, seed=seed)),
    )
    write_json(out / "metrics.json", {"acts": [act.to_dict() for act in acts]})
    write_page(
        out / "report.html",
        "demo.html.j2",
        title="slimp demo: three acts on synthetic cohorts",
        lead="Nested pre-training, adaptation and imputation, each against its control on the "
        "same test patients. What an interval does not show is said not to be shown.",
        command=f"slimp demo --seed {seed}",
        acts=acts,
    )
    return acts


def _pretraining(here: Path, settings: PretrainConfig) -> Act:
    """Act 1, on the reference."""
    cohort = Cohort.load(here / "cohort")
    pretrain(cohort, settings, here / "run")
    pretrain(cohort, replace(settings, **FLAT), here / "flat")
    act = Act(title="1  Pre-training on the reference, tested on patients that it never saw")
    nested = _probed(here)
    act.arms["majority class"] = nested.baselines["majority"]
    act.arms["table only"] = nested.baselines["metadata"]
    _compare(act, here, cohort, ("flat", "flat"), ("nested", nested))
    act.claim("nested, images + metadata", "table only")
    return act


def _adaptation(here: Path, reference: Path, settings: PretrainConfig) -> Act:
    """Act 2, on the clinic with other cameras and fewer columns."""
    cohort = Cohort.load(here / "cohort")
    # A small clinic, many test patients, and half of the epochs for either arm.
    epochs = max(1, settings.epochs // 2)
    settings = replace(settings, held_out_fraction=0.8, epochs=epochs)
    same = values_of(settings, RunConfig) | {"learning_rate": AdaptConfig.learning_rate}
    adapt(reference / "run", cohort, AdaptConfig(**same), here / "run")
    pretrain(cohort, settings, here / "alone")
    act = Act(title="2  A small clinic with other cameras and columns: adapted, or trained alone")
    _compare(act, here, cohort, ("clinic alone", "alone"), ("adapted", _probed(here)))
    return act


def _probed(here: Path) -> Assessment:
    """The probes of the run and what needs no pre-training, saved with a page as by `probe`."""
    config = FullProbeConfig(subgroups=("none",))
    how: dict[str, Any] = {"accelerator": "cpu", "workers": 0, "config": config}
    return make(Arguments(run=here / "run", cohort=here / "cohort", out=here / "probe", **how))


def _compare(
    act: Act,
    here: Path,
    cohort: Cohort,
    control: tuple[str, str],
    method: tuple[str, Assessment],
) -> None:
    """Adds the probes of a control's run and of the method's, tested on the same patients."""
    (control_name, run), (name, found) = control, method
    parts = parts_of_run(here / "run", cohort) or {}
    column = [parts.get(patient) for patient in cohort.images["patient_id"]]
    table = cached_features(here / run, here / "cohort")
    for words, features in FEATURES.items():
        plain = probe(table, ProbeConfig(features=features), parts=column)
        act.arms[f"{control_name}, {words}"] = plain
        act.arms[f"{name}, {words}"] = found.probes[features]
        act.claim(f"{name}, {words}", f"{control_name}, {words}")


def _imputation(out: Path, config: RetrievalConfig) -> Act:
    """Act 3, on clinics whose metadata count as unknown: one like the reference, one unlike it."""
    act = Act(title="3  Clinics of images only: metadata imputed by retrieval")
    run, folder = out / "reference" / "run", out / "reference" / "cohort"
    model, reference = Slimp.from_pretrained(run), Cohort.load(folder)
    known = EmbeddedCohort(cohort=reference, images=cached_features(run, folder).features["image"])
    parts = parts_of_run(run, reference)
    for name, words in (("similar", "clinic like the reference"), ("clinic", "shifted clinic")):
        target = Cohort.load(out / name / "cohort")
        table = embed(model, target, lacking="missing")
        unknown = EmbeddedCohort(cohort=target, images=table.features["image"])
        found = extrapolate(model, known, unknown, config, parts=parts)
        with new_folder(out / name / "imputed") as imputed:
            found.save(imputed, run=run, reference=folder, target=out / name / "cohort")
            write_retrieval_report(imputed / "report.html", found)
        act.findings.append(f"{words}: {found.verdict}")
        trusted = found.shift is not None and not found.shift.flagged
        table = with_pseudo_metadata(table, model, found.features)
        _probe_imputed(act, words, table, trusted=trusted)
    return act


def _probe_imputed(act: Act, words: str, table: FeatureTable, *, trusted: bool) -> None:
    """Images with and without imputed metadata; few patients have labels to train on.

    Whether imputed metadata are used is decided before any test patient is looked at: by the shift
    test, then by cross-validation on the training patients.
    """
    patients = sorted(set(table.ids["patient_id"]))
    labelled = table.ids["patient_id"].isin(patients[::3])
    parts = labelled.map({True: "train", False: "held_out"}).tolist()
    alone, both = f"images ({words})", f"images + imputed metadata ({words})"
    sets: dict[str, FeatureSet] = {alone: "image", both: "full"}
    for arm, features in sets.items():
        act.arms[arm] = probe(table, ProbeConfig(features=features), parts=parts)
    if not trusted:
        act.findings.append(f"{words}: imputed metadata are left out, as the shift test says.")
        return
    less, more = (table.design(features) for features in sets.values())
    task = make_task(table.ids, ProbeConfig(), parts)
    try:
        worth = added_worth(more, less, task, task.splits[0].train, ProbeConfig(features="full"))
    except UserError:
        reason = "since too few patients have labels to cross-validate"
        act.findings.append(f"{words}: imputed metadata are left out, {reason}.")
        return
    verdict = "are used" if worth.enough else "are left out"
    act.findings.append(f"{words}: imputed metadata {verdict}: {worth}.")
    if worth.enough:
        act.claim(both, alone)
