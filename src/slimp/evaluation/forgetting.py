"""What a model forgot while it adapted: probes on the cohort it came from, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from slimp.data.cohort import Cohort
from slimp.data.encoding import FittedFeature
from slimp.errors import UserError
from slimp.evaluation.folds import held_out_split
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.paired_bootstrap import Comparison, Difference, compare
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.run_features import parts_of_run
from slimp.features.embed import InferenceConfig, Progress, embed
from slimp.features.feature_sets import FeatureSet
from slimp.models.nested import Slimp

SETS: tuple[FeatureSet, ...] = ("image", "full")


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """Probes of two runs on the same patients of one cohort, which neither learned from."""

    cohort: str
    comparisons: Mapping[FeatureSet, Comparison]
    """Feature set -> after (a) against before (b): what is below 0 was forgotten."""
    tested_on: str
    """Which images test, in words."""
    unread: tuple[str, ...]
    """Features (`level: name`) that the model read before and no longer reads."""

    def main(self, features: FeatureSet) -> Difference:
        """Balanced accuracy after and before, and the difference, for one feature set."""
        return self.comparisons[features].differences["balanced_accuracy"]

    def sentence(self) -> str:
        """The result in words."""
        worst = min(self.comparisons, key=lambda name: self.main(name).difference)
        change = self.main(worst)
        low, high = change.ci95
        found = "forgetting" if high < 0 else "no forgetting" if low > 0 else "no clear forgetting"
        return (
            f"{found}: balanced accuracy of '{worst}' changed by {change} on cohort "
            f"'{self.cohort}'."
        )

    def to_dict(self) -> dict[str, Any]:
        """The content of `forgetting.json`."""
        return {
            "cohort": self.cohort,
            "tested_on": self.tested_on,
            "features_no_longer_read": list(self.unread),
            "after_minus_before": {name: c.to_dict() for name, c in self.comparisons.items()},
        }


def forgetting(
    before: str | Path,
    after: str | Path,
    cohort: Cohort,
    config: ProbeConfig | None = None,
    *,
    device: str = "cpu",
    precision: Literal["32", "bf16"] = "32",
    progress: Progress | None = None,
) -> Forgetting:
    """How the probes of a run changed when it was adapted, with intervals over patients.

    Tests on patients of `cohort` that both runs set aside; where neither has seen the cohort, on
    random patient-disjoint splits. Features that the adapted model lacks are not read by it, and
    columns that only it has count as missing.

    Args:
        before: run folder that was adapted.
        after: run folder of the adaptation.
        cohort: with labels; usually that of the pre-training.
        config: of the probes; its feature set and split are not used.
        device: where to embed.
        precision: of the encoders.
        progress: called with (images done, images in all), of both runs together.

    Raises:
        UserError: no patient of the cohort is left to test on, or its labels do not suffice.
    """
    config = replace(config or ProbeConfig(), split="patient")
    runs = [Path(before), Path(after)]
    parts = _common_parts(runs, cohort)
    given = None if parts is None else cohort.images["patient_id"].map(parts).tolist()
    if given is not None:
        held_out_split(cohort.images, given)  # refuses before anything is embedded
    models = [Slimp.from_pretrained(run) for run in runs]
    tables = [
        embed(
            model,
            cohort,
            InferenceConfig(device=device, precision=precision),
            lacking="missing",
            progress=bar,
        )
        for model, bar in zip(models, _halves(progress), strict=True)
    ]
    comparisons: dict[FeatureSet, Comparison] = {}
    for name in SETS:
        old, new = (
            probe(table, replace(config, features=name), parts=given).predictions
            for table in tables
        )
        comparisons[name] = compare(new, old)
    return Forgetting(
        cohort=cohort.info.name,
        comparisons=comparisons,
        tested_on="patients that both runs set aside"
        if parts is not None
        else f"{config.seeds} random patient-disjoint splits",
        unread=_no_longer_read(*models),
    )


def _common_parts(runs: list[Path], cohort: Cohort) -> dict[str, str] | None:
    """Patient -> held_out if both runs set it aside, else train; None if neither saw the cohort."""
    known = [parts_of_run(run, cohort) or {} for run in runs]
    if not any(known):
        return None
    learned = {p for parts in known for p, part in parts.items() if part != "held_out"}
    patients = cohort.patients["patient_id"]
    parts = {patient: "train" if patient in learned else "held_out" for patient in patients}
    if "held_out" not in parts.values():
        raise UserError(
            f"the runs learned from all patients of cohort '{cohort.info.name}', so none is left "
            "to test on. Pre-train with a --held-out-fraction above 0, or measure on a cohort "
            "that neither run has seen."
        )
    return parts


def _no_longer_read(before: Slimp, after: Slimp) -> tuple[str, ...]:
    """Features of one model none of whose columns the other reads."""

    def columns(feature: FittedFeature) -> set[str]:
        return {column for names in (feature.columns, *feature.also) for column in names}

    known = {
        (level, column)
        for level, encoding in after.encodings.items()
        for feature in encoding.features
        for column in columns(feature)
    }
    return tuple(
        f"{level}: {feature.name}"
        for level, encoding in before.encodings.items()
        for feature in encoding.features
        if not any((level, column) in known for column in columns(feature))
    )


def _halves(progress: Progress | None) -> list[Progress | None]:
    """Of one bar for two runs."""
    if progress is None:
        return [None, None]
    return [
        lambda done, total: progress(done, 2 * total),
        lambda done, total: progress(total + done, 2 * total),
    ]
