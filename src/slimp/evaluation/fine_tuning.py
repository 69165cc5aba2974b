"""What fine-tuning end to end reaches, on the splits of a probe and scored like one.

Each split trains a classifier of its own, in a folder of its own, which is a run: what reads runs
reads it. The patients that choose the epoch and the temperature are taken from the training part,
never from the scored one.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from torch import Tensor

from slimp.data.cohort import Cohort
from slimp.data.files import write_json
from slimp.data.splits import assign_groups
from slimp.errors import UserError
from slimp.evaluation.folds import Split
from slimp.evaluation.linear_probe import answer
from slimp.evaluation.logistic import LinearProbe
from slimp.evaluation.metrics import Array
from slimp.evaluation.paired_bootstrap import verdict
from slimp.evaluation.probe_config import FullFinetuneConfig
from slimp.evaluation.protocol import Assessment
from slimp.evaluation.result import ProbeResult, Task, summarise
from slimp.evaluation.subgroups import subgroups
from slimp.features.embed import embed
from slimp.features.encode import InferenceConfig, as_model_reads
from slimp.features.feature_sets import METADATA_KEYS, TABLE
from slimp.models.nested import Slimp
from slimp.training.finetune import Classifier, clear, finetune
from slimp.training.loop import describe
from slimp.training.parts import EARLIER_PATIENTS, PATIENTS, Parts
from slimp.training.run_folder import require_same_data, versions

NAME = "fine-tuned"
"""Of the result among those of frozen features."""
TEMPERATURES = (0.05, 20.0)
"""Bounds; reached where the rows are separated, or where the classifier knows nothing."""
SMALLEST = 1e-300
"""Stands for a probability of 0, so that its logarithm is finite."""


def run_of(folder: Path, split: Split) -> Path:
    """The run folder of one split."""
    return folder / f"split{split.seed}{'' if split.fold is None else f'-fold{split.fold}'}"


def fine_tune(
    start: Slimp,
    cohort: Cohort,
    task: Task,
    config: FullFinetuneConfig,
    out: Path,
    *,
    how: InferenceConfig,
    earlier: pd.DataFrame | None = None,
) -> ProbeResult:
    """The scores of a classifier per split; each split's run is left in `out`, see `run_of`.

    Splits that are finished there are read, and one that is not is continued. `cohort` has the
    rows of the task, in their order; `earlier` are the parts of the start's own stages
    (`earlier_table`), to keep beside.

    Raises:
        UserError: the labels, patients or metadata do not allow it, or training failed.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    # The labels of the task may join some of the cohort's.
    images = cohort.images.assign(label=task.ids["label"].to_numpy())
    cohort = replace(cohort, tables=replace(cohort.tables, images=images))
    cohort = as_model_reads(start, cohort)
    found, probes = [], []
    for split in task.splits:
        folder = run_of(out, split)
        parts = take_apart(cohort, task, split, config.validation_fraction)
        require_same_data(folder / "config.json", parts.fingerprint)
        if (folder / "probe.json").is_file():
            parts.save(folder / PATIENTS)  # refuses a split that learned from other patients
        else:
            settings = replace(config, seed=split.seed)
            record = {"finetune": asdict(settings), "data": describe(parts), "versions": versions()}
            write_json(folder / "config.json", record)
            if earlier is not None:
                earlier.to_parquet(folder / EARLIER_PATIENTS, index=False)
            torch.manual_seed(split.seed)
            classifier = Classifier.of(start, parts.train, config.features, task.classes)
            finetune(classifier, parts, settings, folder, device=torch.device(how.device))
            classifier.model.save_pretrained(folder)
            assert parts.validation is not None
            as_probe(classifier, parts.validation, config).save(folder)
            clear(folder)
        model, probe = Slimp.from_pretrained(folder), LinearProbe.load(folder)
        table = embed(model, _rows(cohort, split.test), how, lacking="missing")
        found.append(answer(task, split, probe, table.design(config.features), config))
        probes.append(probe)
    result = summarise(task, found, config, name=NAME, decision=config.decision)
    return replace(result, probe=probes[0])


def take_apart(cohort: Cohort, task: Task, split: Split, fraction: float) -> Parts:
    """The split's patients, of which those of a fraction of the training images validate.

    A class that only validation patients would have trains.

    Raises:
        UserError: too few patients.
    """
    y, patients = task.y[split.train], task.groups[split.train]
    fractions = {"train": 1 - fraction, "validation": fraction}
    validates = assign_groups(y, patients, fractions, seed=split.seed) == "validation"
    lacking = ~np.isin(y, y[~validates])
    validates &= ~np.isin(patients, patients[lacking])
    if not validates.any():
        raise UserError(
            f"{len(np.unique(patients))} training patients are too few to choose an epoch by some "
            "of them. Add patients, or raise --validation-fraction."
        )
    return Parts(
        train=_rows(cohort, split.train[~validates]),
        validation=_rows(cohort, split.train[validates]),
        held_out=_rows(cohort, split.test),
        fingerprint=cohort.fingerprint(),
    )


def as_probe(classifier: Classifier, validation: Cohort, config: FullFinetuneConfig) -> LinearProbe:
    """The head as a probe of the model's features, calibrated on the validation patients.

    Its probabilities are softmax(z / T + log class frequency), z being the head's logits.
    """

    def numbers(x: Tensor) -> Array:
        return x.detach().cpu().double().numpy()

    width, levels = classifier.model.config.tabular_width, classifier.levels
    blocks = {"image": classifier.model.image_encoder.embed_dim}
    blocks |= {METADATA_KEYS[level]: width for level in levels}
    if levels:
        blocks[TABLE] = classifier.table_width
    k, priors = len(classifier.classes), numbers(classifier.log_priors.exp())
    balanced = LinearProbe(
        classes=classifier.classes,
        features=classifier.feature_set,
        blocks=blocks,
        encodings=classifier.table,
        mean=numbers(classifier.mean),
        scale=numbers(classifier.scale),
        coef=numbers(classifier.head.weight),
        intercept=numbers(classifier.head.bias),
        priors=np.full(k, 1 / k),
        decision=config.decision,
    )
    p = balanced.predict_proba(numbers(classifier.features(validation, 0)))
    temperature = fit_temperature(p, classifier.codes(validation).cpu().numpy(), priors)
    return replace(
        balanced,
        coef=balanced.coef / temperature,
        intercept=balanced.intercept / temperature + np.log(priors),
        priors=priors,
    )


def fit_temperature(
    probabilities: Float[Array, "n k"], y: Int[Array, " n"], priors: Float[Array, " k"]
) -> float:
    """The T of least log-loss on these rows (Guo et al. 2017); probabilities are of equal classes.

    Rows whose true class has probability 0 are left out: their fold did not know the class.
    """
    known = probabilities[np.arange(len(y)), y] > 0
    if not known.any():
        return 1.0
    z, y = np.log(np.maximum(probabilities[known], SMALLEST)), y[known]
    bias = np.log(np.maximum(priors, SMALLEST))

    def loss(inverse: float) -> float:
        logits = inverse * z + bias
        return float(np.mean(logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]))

    low, high = TEMPERATURES
    found = minimize_scalar(loss, bounds=(1 / high, 1 / low), method="bounded")
    return float(1 / found.x)


def beside_frozen(frozen: Assessment, tuned: ProbeResult, cohort: Cohort) -> Assessment:
    """The assessment of the start's frozen features with the fine-tuned result as its main one."""
    tables = {name: result.predictions for name, result in frozen.baselines.items()}
    before = {f"frozen {frozen.main.config.features}": frozen.main.predictions}
    return replace(
        frozen,
        probes={**frozen.probes, NAME: tuned},
        verdict=verdict(NAME, tuned.predictions, tables, unit=frozen.unit),
        gain=verdict(NAME, tuned.predictions, before, unit=frozen.unit),
        subgroups=subgroups(tuned, cohort),
    )


def _rows(cohort: Cohort, rows: Array) -> Cohort:
    return cohort.select(np.isin(np.arange(len(cohort)), rows))
