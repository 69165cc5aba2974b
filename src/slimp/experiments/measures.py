"""What is asked of an arm's features on one split: a probe, one of few labels, one of gaps.

A measure yields the predictions of the test rows, as `ProbeResult.predictions` with the columns
`features` and `setting` (empty, or as in 'shots 5'), and `draw` where a setting is drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS, LevelName
from slimp.evaluation.baselines import majority, metadata_baseline
from slimp.evaluation.linear_probe import answer, fit, probe_design
from slimp.evaluation.low_shot import answer_of, draw_rows
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Predictions, Task, prediction_table
from slimp.experiments.missing_metadata import Mechanism, hide, impute_from, impute_typical
from slimp.features.design import Design, RawTable
from slimp.features.embed import FeatureTable
from slimp.features.feature_sets import FeatureSet
from slimp.models.nested import Slimp
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.index import EmbeddedCohort, Index
from slimp.retrieval.pseudo_table import retrieved_values
from slimp.retrieval.routes import retrieve

BESIDE = "image+table"
"""Feature set of experiments: image embeddings beside raw metadata, whatever learned the former."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """One arm on one split."""

    table: FeatureTable
    """Of all images of the cohort."""
    task: Task
    """The classes, and one split."""
    config: ProbeConfig
    cohort: Cohort
    run: Path
    features: tuple[str, ...]

    def design(self, features: str, table: FeatureTable | None = None) -> Design:
        """The feature set, of this table or another one."""
        table = table or self.table
        if features != BESIDE:
            return table.design(cast(FeatureSet, features))
        full = table.design("full")
        return replace(full, blocks={"image": full.blocks["image"]})


def plain(asked: Asked) -> pd.DataFrame:
    """The probe of every feature set, with all labels and the metadata as they are."""
    found = []
    for name in asked.features:
        result = probe_design(asked.design(name), asked.task, asked.config, name=name)
        found.append(result.predictions.assign(features=name, setting=""))
    return pd.concat(found, ignore_index=True)


def few_labels(
    asked: Asked,
    *,
    shots: Sequence[int] = (1, 5, 20),
    fractions: Sequence[float] = (0.1, 1.0),
    draws: int = 5,
) -> pd.DataFrame:
    """The probe of few training patients, drawn as by `slimp probe --shots --fractions`."""
    split, found = asked.task.splits[0], []
    kinds = [("shots", float(n)) for n in shots] + [("fraction", float(f)) for f in fractions]
    for name in asked.features:
        design = asked.design(name)
        for kind, value in kinds:
            for draw in range(1 if (kind, value) == ("fraction", 1) else draws):
                rows = draw_rows(asked.task, split, kind, value, draw)
                said = answer_of(design, asked.task, split, rows, asked.config)
                found.append(_rows(asked, said, name, f"{kind} {value:g}", draw))
    return pd.concat(found, ignore_index=True)


def gaps(
    asked: Asked,
    *,
    rates: Sequence[float] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
    mechanisms: Sequence[Mechanism] = ("random", "block"),
    fill: str = "none",
    alike: bool = False,
    neighbours: int = 10,
) -> pd.DataFrame:
    """The probe where known cells of metadata are hidden, one by one or in blocks.

    Args:
        asked: image features are asked for once, since nothing is hidden from them.
        rates: fractions of the known cells of each level.
        mechanisms: see `slimp.experiments.missing_metadata.Mechanism`.
        fill: `typical` (median, most frequent value of the training patients) or `retrieval` (of
            the nearest training patients by I->L->P) of every gap beforehand; `none`.
        alike: the probe learns from rows with as many gaps; otherwise from complete ones.
        neighbours: of the retrieval.
    """
    split, found = asked.task.splits[0], []
    for name in asked.features:
        fitted = None
        for setting, holed in _holed(asked, rates, mechanisms):
            filled = _filled(asked, holed, fill, neighbours)
            raw = RawTable.of(filled)
            assert raw is not None
            assert asked.table.encoder is not None
            blocks = {**asked.table.features, **asked.table.encoder(raw)}
            design = asked.design(name, replace(asked.table, features=blocks, raw=raw))
            if fitted is None or alike:
                fitted = fit(design, asked.task, split.train, asked.config, seed=split.seed)
            said = answer(asked.task, split, fitted, design[split.test], asked.config)
            found.append(_rows(asked, said, name, setting))
            if name == "image":
                break
    return pd.concat(found, ignore_index=True)


MEASURES: dict[str, Callable[..., pd.DataFrame]] = {
    "probe": plain,
    "low-shot": few_labels,
    "missing": gaps,
}


def without_model(name: str, cohort: Cohort, task: Task, config: ProbeConfig) -> pd.DataFrame:
    """The predictions of the raw metadata alone, or of the majority class; features `full`."""
    given = pd.Series(None, index=range(len(task.ids)), dtype="object")
    given.iloc[task.splits[0].train], given.iloc[task.splits[0].test] = "train", "test"
    own = replace(cohort, tables=replace(cohort.tables, images=task.ids))
    if name == "majority":
        found = majority(task.ids, config, parts=given)
    else:
        found = metadata_baseline(own, config, parts=given)
    rows = found.predictions.assign(features="full", setting="", seed=task.splits[0].seed)
    fold = task.splits[0].fold
    return rows if fold is None else rows.assign(fold=fold)


def _rows(
    asked: Asked, said: Predictions, features: str, setting: str, draw: int = 0
) -> pd.DataFrame:
    rows = prediction_table(asked.task, [said], asked.config.decision)
    return rows.assign(features=features, setting=setting, draw=draw)


def _holed(
    asked: Asked, rates: Sequence[float], mechanisms: Sequence[Mechanism]
) -> Iterator[tuple[str, Cohort]]:
    yield "complete", asked.cohort
    for mechanism in mechanisms:
        for rate in rates:
            if rate:
                seed = asked.task.splits[0].seed
                holed = hide(asked.cohort, rate, mechanism=mechanism, seed=seed)
                yield f"{'cells' if mechanism == 'random' else 'blocks'} {rate:.0%}", holed


def _filled(asked: Asked, holed: Cohort, fill: str, neighbours: int) -> Cohort:
    if fill == "none":
        return holed
    ids = asked.task.ids["patient_id"]
    learns = ~ids.isin(ids.iloc[asked.task.splits[0].test])
    if fill == "retrieval":
        holed = impute_from(holed, _donors(asked, holed, learns.to_numpy(np.bool_), neighbours))
    return impute_typical(holed, ids[learns])


def _donors(
    asked: Asked, holed: Cohort, learns: np.ndarray[Any, np.dtype[np.bool_]], neighbours: int
) -> dict[LevelName, pd.DataFrame]:
    """Metadata of training patients, retrieved for every lesion and patient by its images."""
    model, images = Slimp.from_pretrained(asked.run), asked.table.features["image"]
    known = EmbeddedCohort(cohort=holed.select(learns), images=images[learns])
    index = Index.build(model, known)
    config = RetrievalConfig(route="ilp", k=neighbours, impute="all")
    found = retrieve(model, index, EmbeddedCohort(cohort=holed, images=images), config)
    donors = {}
    for level, values in retrieved_values(found, index).items():
        assert level in LEVELS
        ids = holed.images[f"{level}_id"].reset_index(drop=True)
        first = ~ids.duplicated()
        donors[level] = values[first].assign(**{f"{level}_id": ids[first]})
    return donors
