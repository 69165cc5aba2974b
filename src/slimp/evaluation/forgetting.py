"""What a model forgot while it adapted: probes on the cohort it came from, before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from slimp.evaluation.protocol import parts_of_run
from slimp.features.embed import FeatureTable, embed
from slimp.features.feature_sets import FeatureSet
from slimp.models.nested import Slimp

SETS: tuple[FeatureSet, ...] = ("image", "full")
MAIN = "balanced_accuracy"


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """Probes of two runs on the same patients of one cohort, whom neither learned from."""

    cohort: str
    comparisons: Mapping[FeatureSet, Comparison]
    """Feature set -> after (a) against before (b): what is below 0 was forgotten."""
    tested_on: str
    """Whose images test, in words."""
    unseen: tuple[str, ...]
    """Features (`level: name`) that the model read before and reads no more."""

    def main(self, features: FeatureSet) -> Difference:
        """Balanced accuracy after and before, and what lies between, for one feature set."""
        return self.comparisons[features].differences[MAIN]

    def sentence(self) -> str:
        """The result in words."""
        gone = {name: self.main(name) for name in self.comparisons}
        worst = min(gone, key=lambda name: gone[name].difference)
        change, (low, high) = gone[worst].difference, gone[worst].ci95
        if high < 0:
            found = f"forgetting: '{worst}' lost {-change:.3f} [{-high:.3f}, {-low:.3f}]"
        elif low > 0:
            found = f"no forgetting: even '{worst}' gained {change:.3f} [{low:.3f}, {high:.3f}]"
        else:
            found = (
                f"no forgetting shown: '{worst}' changed by {change:+.3f} [{low:.3f}, {high:.3f}]"
            )
        return f"{found} in balanced accuracy on cohort '{self.cohort}'."

    def to_dict(self) -> dict[str, Any]:
        """The content of `forgetting.json`."""
        return {
            "cohort": self.cohort,
            "tested_on": self.tested_on,
            "features_no_longer_read": list(self.unseen),
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
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Forgetting:
    """How the probes of a run changed when it was adapted, with intervals over patients.

    Tests on patients of `cohort` that both runs set aside; where neither has seen the cohort, on
    random patient-disjoint splits. Features that the adapted model lacks are not seen by it, and
    columns that only it has count as missing.

    Args:
        before: run folder that was adapted.
        after: run folder of the adaptation.
        cohort: with labels; usually that of the pre-training.
        config: of the linear probes; its feature set and split are not used.
        device: where to embed.
        precision: of the encoders.
        workers: processes that decode images; 0 decodes in this one.
        progress: called with (images done, images in all), of both runs together.

    Raises:
        UserError: nobody of the cohort is left to test on, or its labels do not suffice.
    """
    config = replace(config or ProbeConfig(), split="patient")
    runs = [Path(before), Path(after)]
    parts = _parts(runs, cohort)
    models = [Slimp.from_pretrained(run) for run in runs]
    tables = [
        embed(
            model,
            cohort,
            device=device,
            precision=precision,
            workers=workers,
            lacking="missing",
            progress=_share(progress, number, len(models)),
        )
        for number, model in enumerate(models)
    ]
    given = None
    if parts is not None:
        given = tables[0].ids["patient_id"].map(parts).astype("object").tolist()
        held_out_split(tables[0].ids, given)  # refuses before anything is fitted
    comparisons: dict[FeatureSet, Comparison] = {
        name: compare(*_predictions(tables, replace(config, features=name), given)) for name in SETS
    }
    return Forgetting(
        cohort=cohort.info.name,
        comparisons=comparisons,
        tested_on="patients that both runs set aside"
        if parts is not None
        else f"{config.seeds} random patient-disjoint splits",
        unseen=_unseen(*models),
    )


def _parts(runs: list[Path], cohort: Cohort) -> dict[str, str] | None:
    """Patient -> held_out if both runs set it aside, else train; None if neither saw the cohort."""
    known = [parts_of_run(run, cohort) or {} for run in runs]
    if not any(known):
        return None
    parts = {
        patient: "held_out"
        if all(p.get(patient, "held_out") == "held_out" for p in known)
        else "train"
        for patient in cohort.patients["patient_id"]
    }
    if "held_out" not in parts.values():
        raise UserError(
            f"the runs learned from all patients of cohort '{cohort.info.name}', so none is left "
            "to test on. Pre-train with a --held-out-fraction above 0, or measure on a cohort "
            "that neither run has seen."
        )
    return parts


def _predictions(tables: list[FeatureTable], config: ProbeConfig, given: Any) -> list[Any]:
    """Of the probes after and before."""
    return [probe(table, config, parts=given).predictions for table in reversed(tables)]


def _unseen(before: Slimp, after: Slimp) -> tuple[str, ...]:
    """Features of one model none of whose columns the other reads."""

    def read(feature: FittedFeature) -> set[str]:
        return {column for columns in (feature.columns, *feature.also) for column in columns}

    known = {
        (level, column)
        for level, encoding in after.encodings.items()
        for feature in encoding.features
        for column in read(feature)
    }
    return tuple(
        f"{level}: {feature.name}"
        for level, encoding in before.encodings.items()
        for feature in encoding.features
        if not any((level, column) in known for column in read(feature))
    )


def _share(
    progress: Callable[[int, int], None] | None, number: int, count: int
) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, count * total)
