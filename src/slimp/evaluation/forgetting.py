"""What a model forgot while it adapted: probes on the cohort it came from, before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slimp.data.cohort import Cohort
from slimp.data.in_order import Progress
from slimp.errors import UserError
from slimp.evaluation.bootstrap import Record
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.paired_bootstrap import Comparison, Difference, compare
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import make_task
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig
from slimp.features.feature_sets import FeatureSet
from slimp.models.nested import Slimp
from slimp.training.parts import parts_of_run

SETS: tuple[FeatureSet, ...] = ("image", "full")


@dataclass(frozen=True, kw_only=True)
class Forgetting(Record):
    """Probes of two runs on the same patients of one cohort, which neither learned from."""

    cohort: str
    after_minus_before: Mapping[FeatureSet, Comparison]
    """Feature set -> after (a) against before (b): what is below 0 was forgotten."""
    tested_on: str
    """Which images test, in words."""
    unread: tuple[str, ...]
    """Features (`level: name`) that the model read before and no longer reads."""

    def main(self, features: FeatureSet) -> Difference:
        """Balanced accuracy after and before, and the difference, for one feature set."""
        return self.after_minus_before[features].differences["balanced_accuracy"]

    def sentence(self) -> str:
        """The result in words."""
        worst = min(self.after_minus_before, key=lambda name: self.main(name).difference)
        change = self.main(worst)
        low, high = change.ci95
        found = "forgetting" if high < 0 else "no forgetting" if low > 0 else "no clear forgetting"
        return f"{found}: balanced accuracy of '{worst}' changed by {change} on '{self.cohort}'."


def forgetting(
    before: str | Path,
    after: str | Path,
    cohort: Cohort,
    config: ProbeConfig | None = None,
    *,
    device: str = "cpu",
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
        device: where to embed, in 32 bit.
        progress: called with (images done, images in all), for one run after the other.

    Raises:
        UserError: no patient of the cohort is left to test on, or its labels do not suffice.
    """
    config = replace(config or ProbeConfig(), split="patient", split_file=None)
    runs = (Path(before), Path(after))
    parts = _common_parts(runs, cohort)
    make_task(cohort.images, config, parts)  # refuses before anything is embedded
    models = [Slimp.from_pretrained(run) for run in runs]
    how = InferenceConfig(device=device)
    tables = [embed(m, cohort, how, lacking="missing", progress=progress) for m in models]
    comparisons: dict[FeatureSet, Comparison] = {}
    for name in SETS:
        settings = replace(config, features=name)
        old, new = (probe(table, settings, parts=parts).predictions for table in tables)
        comparisons[name] = compare(new, old)
    return Forgetting(
        cohort=cohort.info.name,
        after_minus_before=comparisons,
        tested_on="patients that both runs set aside"
        if parts is not None
        else f"{len(config.split_seeds)} random patient-disjoint splits",
        unread=_no_longer_read(*models),
    )


def _common_parts(runs: Sequence[Path], cohort: Cohort) -> list[str] | None:
    """Per image held_out if both runs set its patient aside, else train; None: neither saw any."""
    known = [parts_of_run(run, cohort) or {} for run in runs]
    if not any(known):
        return None
    learned = {p for parts in known for p, part in parts.items() if part != "held_out"}
    parts = ["train" if p in learned else "held_out" for p in cohort.images["patient_id"]]
    if "held_out" not in parts:
        raise UserError(
            f"the runs learned from all patients of cohort '{cohort.info.name}', so none is left "
            "to test on. Pre-train with a --held-out-fraction above 0, or measure on a cohort "
            "that neither run has seen."
        )
    return parts


def _no_longer_read(before: Slimp, after: Slimp) -> tuple[str, ...]:
    """Features of one model that the other reads of no column, or in another unit or kind."""
    later = [(level, f) for level, encoding in after.encodings.items() for f in encoding.features]
    return tuple(
        f"{level}: {feature.name}"
        for level, encoding in before.encodings.items()
        for feature in encoding.features
        if not any(
            level == name and f.is_like(feature) and f.every_column & feature.every_column
            for name, f in later
        )
    )
