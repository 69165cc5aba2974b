"""What missing metadata cost, and which way to handle them costs least.

Each seed trains one model per encoding of a missing cell and per feature dropout, on patients other
than those tested. Then known cells are hidden, one by one or in blocks; image features stay.
Three encodings of a missing cell (zero, mask, learned); two ways to fill it beforehand, for the
model of `mask` (typical: median and most frequent value; retrieval: I->L->P with 10 neighbours).
Balanced accuracy of the full features on held-out patients: `alike`, where the probe was fitted on
rows with as many missing cells, as in a clinic with incomplete records; `test`, where only the
test rows have missing cells. Retrieval: how often a lesion's images find its own metadata among
the ten nearest, and AUROC of matching against other pairs, on held-out patients. Paper (SLIMP):
10 and 30 % missing cost little.

    python benchmarks/missingness.py --cohort pad-ufes-20 --seeds 2 --steps 200
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cohorts import load_cohort
from harness import interval, record
from pooling import pool_results
from pretraining import held_out, prepare, shared_parser
from slimp.data.cohort import Cohort
from slimp.evaluation.linear_probe import answer, probe_matrix
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import ProbeResult, make_task, summarise
from slimp.evaluation.similarity import similarity
from slimp.experiments.missing_metadata import hide, impute_from, impute_typical
from slimp.features.backends import inference
from slimp.features.design import Design
from slimp.features.embed import embed
from slimp.features.encode import cohort_levels, encode_level, evaluating
from slimp.models.nested import Slimp
from slimp.models.pooling import mean_pool
from slimp.retrieval.config import RetrievalConfig
from slimp.retrieval.index import EmbeddedCohort, Index
from slimp.retrieval.pseudo_table import retrieved_values
from slimp.retrieval.routes import retrieve
from slimp.training.config import PretrainConfig
from slimp.training.loop import pretrain
from slimp.training.parts import Parts

Array = np.ndarray[Any, np.dtype[Any]]
MODES = ("zero", "mask", "learned")
FILLED = "mask"
"""The mode whose model also sees filled cells."""
FILLS = ("typical", "retrieval")
NEIGHBOURS = 10
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Hole:
    """How much is hidden, and how."""

    mechanism: str
    rate: float


def main() -> None:
    args = parse()
    cohort = load_cohort(args.cohort)
    holes = [Hole(mechanism="none", rate=0.0)]
    holes += [Hole(mechanism=m, rate=r) for m in args.mechanisms for r in args.rates if r > 0]
    print(f"{cohort}; {args.seeds} seeds, {args.steps} steps", flush=True)
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    images: dict[tuple[str, float], list[ProbeResult]] = {}
    for seed in range(args.seeds):
        for mode in args.modes:
            for dropout in args.dropouts:
                began = time.perf_counter()
                alone, rows = run(cohort, args, holes, mode, dropout, seed)
                images.setdefault((mode, dropout), []).append(alone)
                for key, row in rows:
                    found.setdefault(key, []).append(row)
                took = time.perf_counter() - began
                print(f"seed {seed}  {mode}  dropout {dropout}: {took:.0f} s", flush=True)
    table = [summarised(key, same) for key, same in found.items()]
    show(table)
    summary = {
        "cohort": args.cohort,
        "seeds": args.seeds,
        "steps": args.steps,
        "rates": args.rates,
        "rows": table,
        "image_only": [
            {"missing": mode, "dropout": d, **pool_results(r).balanced_accuracy.to_dict()}
            for (mode, d), r in images.items()
        ],
    }
    if args.out:
        record(args.out, summary, "missingness.py", preset=args.preset, changed=args.set)
    print(json.dumps(summary))


def parse() -> argparse.Namespace:
    parser = shared_parser(__doc__, seeds=2, steps=200, preset="tiny")
    parser.add_argument("--rates", type=float, nargs="*", default=[0.0, 0.1, 0.3, 0.5, 0.7])
    parser.add_argument("--mechanisms", nargs="*", default=["random", "block"])
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES)
    parser.add_argument("--dropouts", type=float, nargs="*", default=[0.0, 0.3])
    args = parser.parse_args()
    if args.quick:
        args.preset, args.steps, args.seeds = "tiny", 20, 1
        args.rates, args.dropouts = [0.0, 0.5], [0.3]
    return args


def run(
    cohort: Cohort,
    args: argparse.Namespace,
    holes: list[Hole],
    mode: str,
    dropout: float,
    seed: int,
) -> tuple[ProbeResult, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """One trained model: its image features alone, and a row per hole and fill."""
    config, parts = prepare(cohort, args, seed)
    config = replace(config, missing=mode, feature_dropout=dropout)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        model = pretrain(cohort, config, Path(folder) / "run")
    trial = Trial(model, cohort, parts, config)
    rows = []
    for fill in ("none", *(FILLS if mode == FILLED else ())):
        whole: ProbeResult | None = None
        for hole, holed in trial.cohorts(holes):
            filled = trial.filled(holed, fill)
            x = trial.features(filled)
            alike = trial.probe(x)
            whole = whole or alike  # the first hole is none
            answers = {"alike": alike, "test": trial.ask(whole, x)}
            key = (mode, dropout, fill, hole.mechanism, hole.rate)
            # Metadata that were retrieved by the image would be found by it.
            meeting = {} if fill == "retrieval" else trial.retrieval(filled)
            rows.append((key, {**answers, **meeting}))
    return trial.probe(trial.images), rows


class Trial:
    """A model on one cohort with its parts; image features are embedded once."""

    def __init__(self, model: Slimp, cohort: Cohort, parts: Parts, config: PretrainConfig) -> None:
        self.model, self.cohort, self.seed = model, cohort, config.seed
        self.images = embed(model, cohort).features["image"]
        column = held_out(cohort, parts)
        self.settings = ProbeConfig(seed=config.seed, replicates=1)
        self.task = make_task(cohort.images, self.settings, column)
        self.learns = set(cohort.images["patient_id"][column == "train"])
        self.tests = column != "train"

    def cohorts(self, holes: list[Hole]) -> Iterator[tuple[Hole, Cohort]]:
        for hole in holes:
            if not hole.rate:
                yield hole, self.cohort
            else:
                yield (
                    hole,
                    hide(self.cohort, hole.rate, mechanism=hole.mechanism, seed=self.seed),  # type: ignore[arg-type]
                )

    def filled(self, holed: Cohort, fill: str) -> Cohort:
        if fill == "none":
            return holed
        if fill == "retrieval":
            holed = impute_from(holed, self.donors(holed))
        return impute_typical(holed, self.learns)

    def donors(self, holed: Cohort) -> dict[Any, Any]:
        """Metadata of training patients, retrieved for every lesion and patient by its images."""
        learns = holed.images["patient_id"].isin(self.learns).to_numpy()
        some = EmbeddedCohort(cohort=holed.select(learns), images=self.images[learns])
        index = Index.build(self.model, some)
        config = RetrievalConfig(route="ilp", k=NEIGHBOURS, impute="all")
        target = EmbeddedCohort(cohort=holed, images=self.images)
        found = retrieve(self.model, index, target, config)
        donors = {}
        for level, values in retrieved_values(found, index).items():
            ids = holed.images[f"{level}_id"].reset_index(drop=True)
            first = ~ids.duplicated()
            donors[level] = values[first].assign(**{f"{level}_id": ids[first]})
        return donors

    def features(self, cohort: Cohort) -> Array:
        """Full features: the image's, and those of its lesion's and patient's metadata."""
        blocks = [self.images]
        rows = {"lesion": cohort.lesion_of_image}
        rows["patient"] = cohort.patient_of_lesion[cohort.lesion_of_image]
        for level in self.model.encodings:
            of_image = rows.get(level, np.arange(len(cohort)))
            blocks.append(self.metadata(cohort, level)[of_image])
        return np.hstack(blocks)

    def metadata(self, cohort: Cohort, level: Any) -> Array:
        with evaluating(self.model, CPU), inference(CPU, "32"):
            levels = {found.name: found for found in cohort_levels(self.model, cohort, CPU)}
            return encode_level(self.model, levels[level]).numpy()

    def probe(self, x: Array) -> ProbeResult:
        return probe_matrix(x, self.task, self.settings, name="logistic")

    def ask(self, fitted: ProbeResult, x: Array) -> ProbeResult:
        """A probe that was fitted on other features, on these test rows."""
        assert fitted.probe is not None
        split = self.task.splits[0]
        test = Design(blocks={"features": x[split.test]})
        found = answer(self.task, split, fitted.probe, test, self.settings)
        decision = self.settings.decision
        return summarise(self.task, [found], self.settings, name="logistic", decision=decision)

    def retrieval(self, cohort: Cohort) -> dict[str, float]:
        """Retrieval of held-out lesions' metadata by their images; equal rows count as others'."""
        lesion = self.model.level("lesion")
        m = torch.from_numpy(self.metadata(cohort, "lesion"))
        with evaluating(self.model, CPU), inference(CPU, "32"):
            parent = torch.from_numpy(cohort.lesion_of_image)
            h = mean_pool(torch.from_numpy(self.images), parent, len(cohort.lesions))
            a, b = lesion.project_below(h), lesion.project_metadata(m)
        tests = np.unique(cohort.lesion_of_image[self.tests])
        found = similarity(a[tests].clone(), b[tests].clone(), ks=(10,))
        return {"recall_at_10": found.image_to_metadata[10], "auroc": found.auroc}


def summarised(key: tuple[Any, ...], same: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the table: scores with intervals over patients, retrieval's mean over seeds."""
    names = ("missing", "dropout", "fill", "mechanism", "rate")
    row = dict(zip(names, key, strict=True))
    for name in ("alike", "test"):
        found = pool_results([entry[name] for entry in same]).balanced_accuracy
        row[name] = found.to_dict(per_seed=False)
    for name in ("recall_at_10", "auroc"):
        row[name] = float(np.mean([entry[name] for entry in same])) if name in same[0] else None
    return row


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"\n{'missing':8s} {'dropout':>7s} {'fill':10s} {'hidden':7s} {'rate':>5s} "
        f"{'alike':>22s} {'test only':>22s} {'recall@10':>9s} {'AUROC':>6s}"
    )
    for row in rows:
        alike, test = interval(row["alike"]), interval(row["test"])
        recall, auroc = (
            "-" if row[name] is None else f"{row[name]:.3f}" for name in ("recall_at_10", "auroc")
        )
        print(
            f"{row['missing']:8s} {row['dropout']:7.1f} {row['fill']:10s} {row['mechanism']:7s} "
            f"{row['rate']:5.1f} {alike:>22s} {test:>22s} {recall:>9s} "
            f"{auroc:>6s}"
        )


if __name__ == "__main__":
    main()
