"""What the cells do: each stage reads its inputs' folders and leaves its outcome in its own."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from slimp.data.cohort import Cohort
from slimp.data.files import new_file, remove_partials, sha256_of
from slimp.errors import UserError
from slimp.evaluation.folds import parts_of_splits
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import TWO, Task, codes_of, make_task, relabelled
from slimp.evaluation.run_features import device_of
from slimp.experiments.baselines import Train
from slimp.experiments.cells import Cell, in_order
from slimp.experiments.cohorts import cohort_of, make_cohort, shuffle_metadata
from slimp.experiments.measures import MEASURES, Asked, without_model
from slimp.features.design import RawTable, metadata_encoder
from slimp.features.embed import FeatureTable, embed
from slimp.features.encode import InferenceConfig
from slimp.features.relative import PatientContext
from slimp.models.nested import Slimp
from slimp.training.adapt import adapt
from slimp.training.build_model import build_model
from slimp.training.config import AdaptConfig, PretrainConfig
from slimp.training.loop import pretrain
from slimp.training.parts import PATIENTS

SPLIT, FEATURES = "split.parquet", "features.parquet"
PREDICTIONS = "predictions.parquet"
BASELINES = "slimp.experiments.baselines"


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
    config = PretrainConfig(**settings["pretrain"], **cell.machine)
    if settings["shuffled"]:
        cohort = shuffle_metadata(cohort, config.seed)
    run = run_of(cell, cells)
    if not (run / "config.json").is_file():  # killed before it began
        shutil.rmtree(run, ignore_errors=True)
    model = trainer(settings["trainer"])(cohort, config, run, **settings["options"])
    model.save_pretrained(run)
    _without_checkpoints(run)


def _adapt(cell: Cell, cells: Path) -> None:
    before, cohort = cell.upstream[0], learning(cell, cells)
    run = run_of(cell, cells)
    if not (run / "config.json").is_file():
        shutil.rmtree(run, ignore_errors=True)
    config = AdaptConfig(**cell.settings["adapt"], **cell.machine)
    adapt(run_of(before, cells), cohort, config, run, resume=run.exists())
    _without_checkpoints(run)


def _embed(cell: Cell, cells: Path) -> None:
    run, target = cell.upstream
    own = cell.folder(cells)
    remove_partials(own)
    model, cohort = Slimp.from_pretrained(run_of(run, cells)), cohort_of(target, cells)
    how = InferenceConfig(device=device_of("auto"))
    replace(embed(model, cohort, how, lacking="missing"), raw=None).save(own / FEATURES)


def _score(cell: Cell, cells: Path) -> None:
    settings, target = cell.settings, cohort_of(cell.upstream[-1], cells)
    config = ProbeConfig(**_tuples(settings["probe"]))
    task = one_task(cell, cells, config)
    require_unseen(cell, cells, task)
    found = []
    for labels in settings["labels"]:
        own = task if labels == "native" else joined(task, settings["malignant"])
        if "without" in settings:
            rows = without_model(settings["without"], target, own, config)
        else:
            asked = Asked(
                table=_features(cell.upstream[0], cells, target, own),
                task=own,
                config=config,
                cohort=target,
                run=run_of(cell.upstream[1], cells),
                features=tuple(settings["features"]),
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
    """The features of an `embed` cell, with the raw metadata and what embeds them anew.

    Lesions are compared with the patient's others in the space of those who do not test.
    """
    table = FeatureTable.load(cell.folder(cells) / FEATURES)
    ids = task.ids["patient_id"]
    learned = table.select(~ids.isin(ids.iloc[task.splits[0].test]))
    table = table.with_context(PatientContext.fit(learned.features, learned.ids))
    encoder = metadata_encoder(Slimp.from_pretrained(run_of(cell.upstream[0], cells)))
    return replace(table, raw=RawTable.of(cohort), encoder=encoder)


def run_of(cell: Cell, cells: Path) -> Path:
    """The run folder of a training's cell."""
    return cell.folder(cells) / "run"


def trainer(name: str) -> Train:
    """The function that trains, by the name that an arm gives it.

    Raises:
        UserError: there is no module of that name.
    """
    if name in OWN:
        return OWN[name]
    code_of(name)
    return cast(Train, importlib.import_module(f"{BASELINES}.{name}").train)


def code_of(name: str) -> str:
    """The SHA-256 of a baseline's module; empty for SLIMP, for which the version stands.

    Raises:
        UserError: there is no module of that name.
    """
    if name in OWN:
        return ""
    found = importlib.util.find_spec(f"{BASELINES}.{name}")
    if found is None or found.origin is None:
        raise UserError(f"no baseline '{name}' in slimp/experiments/baselines.")
    return sha256_of(Path(found.origin))


def _slimp(cohort: Cohort, config: PretrainConfig, folder: Path) -> Slimp:
    return pretrain(cohort, config, folder, resume=folder.exists())


def _untrained(cohort: Cohort, config: PretrainConfig, folder: Path) -> Slimp:
    torch.manual_seed(config.seed)
    whole = cohort.flatten() if config.hierarchy == "flat" else cohort
    return build_model(whole, config).eval()


OWN: dict[str, Train] = {"": cast(Train, _slimp), "untrained": cast(Train, _untrained)}


def one_task(cell: Cell, cells: Path, config: ProbeConfig) -> Task:
    """The native classes on the split of a cell."""
    divided, target = cell.of("split"), cell.upstream[-1]
    assert divided is not None
    images = cohort_of(target, cells).images
    held = pd.read_parquet(divided.folder(cells) / SPLIT).set_index("image_id")["part"]
    parts = held.reindex(images["image_id"]).astype("object").reset_index(drop=True)
    task = make_task(images, config, parts)
    return replace(task, splits=(task.splits[cell.settings["fold"]],))


def require_unseen(cell: Cell, cells: Path, task: Task) -> None:
    """Refuses to test on patients that a training on this cohort learned from."""
    tests = set(task.ids["patient_id"].iloc[task.splits[0].test])
    for training in in_order([cell]):
        path = run_of(training, cells) / PATIENTS
        if "fold" not in training.settings or not path.is_file():
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
    """All patients but those who test; images without a label are among them."""
    split = one_task(cell, cells, ProbeConfig()).splits[0]
    cohort = cohort_of(cell.upstream[-1], cells)
    images = cohort.images
    tests = images["patient_id"].isin(images["patient_id"].iloc[split.test])
    # A split that the cohort names itself is not the experiment's.
    tables = replace(cohort.tables, images=images.drop(columns="split", errors="ignore"))
    return replace(cohort, tables=tables).select(~tests.to_numpy(np.bool_))


def _without_checkpoints(run: Path) -> None:
    """They would be most of an experiment's disk space; a cell that is done needs none."""
    shutil.rmtree(run / "checkpoints", ignore_errors=True)


def _tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(x) if isinstance(x, list) else x for name, x in content.items()}
