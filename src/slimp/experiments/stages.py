"""What the cells do: each stage reads its inputs' folders and leaves its outcome in its own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from slimp.data.cohort import Cohort
from slimp.data.files import new_file, remove_partials
from slimp.errors import UserError
from slimp.evaluation.folds import Split, parts_of_splits
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import TWO, Task, codes_of, make_task, relabelled
from slimp.experiments.asked import Asked
from slimp.experiments.cells import PREDICTIONS, Cell, in_order
from slimp.experiments.cohorts import (
    CHANGED,
    cohort_of,
    make_cohort,
    patients_of_lesions,
    without_split,
)
from slimp.experiments.measures import MEASURES, without_model
from slimp.experiments.recipe import Apart
from slimp.experiments.trainers import trainer
from slimp.features.design import RawTable, metadata_encoder
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig
from slimp.features.feature_table import FeatureTable
from slimp.features.relative import PatientContext
from slimp.models.nested import Slimp
from slimp.retrieval.index import EmbeddedCohort
from slimp.training.adapt import adapt
from slimp.training.config import AdaptConfig, PretrainConfig
from slimp.training.devices import device_of
from slimp.training.parts import PATIENTS

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
SPLIT, FEATURES = "split.parquet", "features.parquet"


def execute(cell: Cell, cells: Path) -> None:
    """Makes a cell whose inputs are done.

    Raises:
        UserError: the cohort does not allow what the cell asks for.
    """
    STAGES[cell.stage](cell, cells)


def _split(cell: Cell, cells: Path) -> None:
    """Who tests, once for all stages: versions of scikit-learn draw other folds."""
    images = cohort_of(cell, cells).images
    config = ProbeConfig(**cell.settings, seeds=1)
    (parts,) = parts_of_splits(make_task(images, config).splits, len(images)).values()
    with new_file(cell.folder(cells) / SPLIT) as partial:
        images[["image_id"]].assign(part=parts.to_numpy()).to_parquet(partial, index=False)


def _pretrain(cell: Cell, cells: Path) -> None:
    settings = cell.settings
    cohort = learning(cell, cells) if "fold" in settings else cohort_of(cell, cells)
    cohort = without_split(cohort)  # who learns is the experiment's affair, alike in all arms
    config = PretrainConfig(**settings["pretrain"], **cell.machine)
    for change in filter(None, settings["learns"].split(", ")):
        cohort = CHANGED[change](cohort, config.seed)
    run = _run_to_go_on(cell, cells)
    model = trainer(settings["trainer"])(cohort, config, run, **settings["options"])
    model.save_pretrained(run)
    _without_checkpoints(run)


def _adapt(cell: Cell, cells: Path) -> None:
    before, cohort = cell.upstream[0], without_split(learning(cell, cells))
    run = _run_to_go_on(cell, cells)
    config = AdaptConfig(**cell.settings["adapt"], **cell.machine)
    adapt(run_of(before, cells), cohort, config, run, resume=run.exists())
    _without_checkpoints(run)


def _run_to_go_on(cell: Cell, cells: Path) -> Path:
    """The run folder of a training's cell, without what was left before training began."""
    run = run_of(cell, cells)
    if not (run / "config.json").is_file():
        shutil.rmtree(run, ignore_errors=True)
    return run


def _embed(cell: Cell, cells: Path) -> None:
    run, target = cell.upstream
    own = cell.folder(cells)
    remove_partials(own)
    model, cohort = Slimp.from_pretrained(run_of(run, cells)), cohort_of(target, cells)
    how = InferenceConfig(device=device_of("auto"))
    replace(embed(model, cohort, how, lacking="missing"), raw=None).save(own / FEATURES)


def _score(cell: Cell, cells: Path) -> None:
    settings, target = cell.settings, cohort_of(cell.upstream[-1], cells)
    held: dict[str, Any] = settings["probe"]
    held = {name: tuple(x) if isinstance(x, list) else x for name, x in held.items()}
    config = ProbeConfig(**held)
    task = one_task(cell, cells)
    require_unseen(cell, cells, task)
    found = []
    for labels in settings["labels"]:
        own = task if labels == "native" else joined(task, settings["malignant"])
        if "without" in settings:
            rows = without_model(settings["without"], target, own, config)
        else:
            asked = Asked(
                table=_features(cell, cells, target, own),
                task=own,
                config=config,
                cohort=target,
                run=run_of(cell.upstream[1], cells),
                features=tuple(settings["features"]),
                reference=_reference(cell, cells),
            )
            rows = MEASURES[settings["measure"]](asked, **settings["options"])
        found.append(rows.assign(labels=labels))
    with new_file(cell.folder(cells) / PREDICTIONS) as partial:
        pd.concat(found, ignore_index=True).to_parquet(partial, index=False)


STAGES = {
    "cohort": make_cohort,
    "split": _split,
    "pretrain": _pretrain,
    "adapt": _adapt,
    "embed": _embed,
    "score": _score,
}


def _features(cell: Cell, cells: Path, cohort: Cohort, task: Task) -> FeatureTable:
    """The features that a score reads, with the raw metadata and what embeds them anew.

    Lesions are compared with the patient's others in the space of those who do not test.
    """
    embedded, run = cell.upstream[:2]
    table = FeatureTable.load(embedded.folder(cells) / FEATURES)
    if "relative" in cell.settings["features"]:
        ids = task.ids["patient_id"]
        learned = table.select(~ids.isin(ids.iloc[task.splits[0].test]))
        table = table.with_context(PatientContext.fit(learned.features, learned.ids))
    encoder = metadata_encoder(Slimp.from_pretrained(run_of(run, cells)))
    return replace(table, raw=RawTable.of(cohort), encoder=encoder)


def _reference(cell: Cell, cells: Path) -> EmbeddedCohort | None:
    """The cohort whose metadata a score retrieves, embedded by the same run."""
    found = [other for other in cell.upstream[1:] if other.stage == "embed"]
    if not found:
        return None
    images = FeatureTable.load(found[0].folder(cells) / FEATURES).features["image"]
    return EmbeddedCohort(cohort=cohort_of(found[0].upstream[-1], cells), images=images)


def run_of(cell: Cell, cells: Path) -> Path:
    """The run folder of a training's cell."""
    return cell.folder(cells) / "run"


def one_task(cell: Cell, cells: Path) -> Task:
    """The native classes on the split of a cell: who tests, and who of the others trains.

    Raises:
        UserError: what keeps apart from the tests lacks a class.
    """
    divided, settings = cell.of("split"), cell.settings
    assert divided is not None
    images = cohort_of(cell.upstream[-1], cells).images.reset_index(drop=True)
    held = pd.read_parquet(divided.folder(cells) / SPLIT).set_index("image_id")["part"]
    parts = held.reindex(images["image_id"]).reset_index(drop=True)
    name = sorted(set(parts.dropna()) - {"train"})[settings["fold"]]
    tests = (parts == name).to_numpy(np.bool_)
    seed = divided.settings["seed"]
    trains = apart(images, tests, settings["apart"], seed) & parts.notna().to_numpy()
    labels = images["label"]
    if lacking := set(labels[tests]) - set(labels[trains]):
        raise UserError(
            f"class '{min(lacking)}' tests, and nobody with it trains: merge it with another "
            "class, or drop its rows."
        )
    classes = tuple(sorted(set(labels.dropna())))
    split = Split(
        seed=seed,
        train=np.flatnonzero(trains),
        test=np.flatnonzero(tests),
        fold=int(name.removeprefix("fold")) if name.startswith("fold") else None,
    )
    y = codes_of(labels, classes)
    return Task(ids=images, classes=classes, y=y, splits=(split,), split="held_out")


def apart(images: pd.DataFrame, tests: Mask, unit: Apart, seed: int) -> Mask:
    """(images,) those that may train, unlabelled ones among them; see `Apart`."""
    ids = images[f"{'patient' if unit == 'as few' else unit}_id"]
    kept: Mask = ~ids.isin(ids[tests]).to_numpy(np.bool_)
    if unit != "as few":
        return kept
    others = np.random.default_rng(seed).permutation(np.flatnonzero(~tests))
    return np.isin(np.arange(len(images)), others[: kept.sum()])


def require_unseen(cell: Cell, cells: Path, task: Task) -> None:
    """Refuses to test on patients that a training on this cohort learned from."""
    tested = task.ids.iloc[task.splits[0].test]
    tests = {*tested["patient_id"], *patients_of_lesions(tested["lesion_id"])}
    for training in in_order([cell]):
        path = run_of(training, cells) / PATIENTS
        if training.settings.get("apart") != "patient" or not path.is_file():
            continue
        if met := tests & set(pd.read_parquet(path)["patient_id"]):
            raise UserError(
                f"{path}: the training learned from patient {min(met)}, who tests. "
                f"Delete {training.folder(cells)} and run the experiment again."
            )


def joined(task: Task, malignant: tuple[str, ...]) -> Task:
    """Malignant against the rest on the same split."""
    ids = relabelled(task.ids, malignant)
    return replace(task, ids=ids, classes=TWO, y=codes_of(ids["label"], TWO))


def learning(cell: Cell, cells: Path) -> Cohort:
    """All that may train beside those who test; images without a label are among them."""
    cohort, split = cohort_of(cell.upstream[-1], cells), one_task(cell, cells).splits[0]
    tests = np.isin(np.arange(len(cohort)), split.test)
    return cohort.select(apart(cohort.images, tests, cell.settings["apart"], split.seed))


def _without_checkpoints(run: Path) -> None:
    """They would be most of an experiment's disk space; a cell that is done needs none."""
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
