"""What is asked of an arm's features on one split: a probe, one of few labels, one of gaps.

A measure yields the predictions of the test rows, as `ProbeResult.predictions` with the columns
`features` and `setting` (empty, or as in 'shots 5'), `draw` where a setting is drawn at random, and
`Recipe.columns`: figures of the arm, the same in all of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.schema import LEVELS, LevelName
from slimp.evaluation.linear_probe import answer, fit, majority, metadata_baseline, probe_design
from slimp.evaluation.low_shot import answer_of, draw_rows
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import Task
from slimp.experiments.asked import Asked
from slimp.experiments.levels import matching, patients
from slimp.experiments.missing_metadata import Mechanism, hide, impute_from, impute_typical
from slimp.features.design import RawTable
from slimp.features.encode import as_model_reads, encode_table
from slimp.features.feature_sets import METADATA_KEYS
from slimp.models.image_encoder import forward_operations
from slimp.models.nested import Slimp
from slimp.retrieval.config import RetrievalConfig, Route
from slimp.retrieval.index import EmbeddedCohort, Index
from slimp.retrieval.pseudo_table import retrieved_values
from slimp.retrieval.routes import retrieve


def plain(asked: Asked, *, costs: bool = False) -> pd.DataFrame:
    """The probe of every feature set, with all labels and the metadata as they are.

    Args:
        asked: an arm on a split.
        costs: add the size of the tabular encoders, all levels together: `parameters`, and
            `operations`, the floating-point ones per lesion with its patient.
    """
    found, sizes = [], _tabular_costs(asked) if costs else {}
    for name in asked.features:
        result = probe_design(asked.design(name), asked.task, asked.config, name=name)
        found.append(result.predictions.assign(features=name, setting="", **sizes))
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
                found.append(asked.rows(said, name, f"{kind} {value:g}", draw))
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
            found.append(asked.rows(said, name, setting))
            if name == "image":
                break
    return pd.concat(found, ignore_index=True)


def retrieved(
    asked: Asked, *, route: Route | None = None, k: int = 1, shuffled: bool = False
) -> pd.DataFrame:
    """The probe of images with retrieved metadata, all of the cohort's own being hidden.

    Args:
        asked: `reference` has the metadata.
        route: I->L->P or I->I, see `RetrievalConfig`; None: the cohort's own metadata.
        k: neighbours whose embeddings are averaged.
        shuffled: each image with what was retrieved for another, to tell retrieval from columns.
    """
    if route is None:
        return plain(asked)
    assert asked.reference is not None
    model, images = Slimp.from_pretrained(asked.run), asked.table.features["image"]
    index = Index.build(model, asked.reference)
    target = EmbeddedCohort(cohort=asked.cohort, images=images)
    found = retrieve(model, index, target, RetrievalConfig(route=route, k=k, impute="all"))
    order = np.arange(len(images))
    if shuffled:
        order = np.random.default_rng(asked.task.splits[0].seed).permutation(order)
    blocks = {METADATA_KEYS[name]: level.embedding[order] for name, level in found.levels.items()}
    table = replace(asked.table, features={"image": images, **blocks}, raw=None, encoder=None)
    return plain(replace(asked, table=table))


MEASURES: dict[str, Callable[..., pd.DataFrame]] = {
    "probe": plain,
    "low-shot": few_labels,
    "missing": gaps,
    "matching": matching,
    "patients": patients,
    "retrieval": retrieved,
}


def without_model(name: str, cohort: Cohort, task: Task, config: ProbeConfig) -> pd.DataFrame:
    """The predictions of the raw metadata alone, or of the majority class; features `full`."""
    if name == "majority":
        found = majority(task, config)
    else:
        found = metadata_baseline(RawTable.of(cohort), task, config)
    return found.predictions.assign(features="full", setting="")


def _tabular_costs(asked: Asked) -> dict[str, float]:
    model = Slimp.from_pretrained(asked.run)
    cohort, found = as_model_reads(model, asked.cohort), {"parameters": 0.0, "operations": 0.0}
    for name, encoding in model.encodings.items():
        row = encode_table(encoding, cohort.tables.of_level(name).head(1))
        tabular = model.level(name).tabular
        found["parameters"] += sum(parameter.numel() for parameter in tabular.parameters())
        found["operations"] += forward_operations(tabular, row)
    return found


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
