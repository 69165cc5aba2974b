"""A run of random weights and probes of it, on disk, in a second."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from tiny import fitted

from slimp.data.cohort import Cohort
from slimp.data.files import sha256_of
from slimp.evaluation.linear_probe import probe
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import make_task
from slimp.features.embed import embed
from slimp.features.feature_table import FeatureTable
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.prediction.novelty import save_reference
from slimp.sources.synthetic.cohort import SyntheticConfig, write_synthetic

QUICK = ProbeConfig(seeds=2, folds=2, strengths=(0.01,), replicates=5)


def write_run(root: Path, *, patients: int, name: str = "run", seed: int = 0) -> FeatureTable:
    """Writes `cohort`, the run and `features.parquet` into a folder."""
    if not (root / "cohort").is_dir():
        write_synthetic(
            root / "cohort", SyntheticConfig(patients=patients, lesions=2, image_size=32)
        )
    cohort = Cohort.load(root / "cohort")
    options = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    torch.manual_seed(seed)
    shape = {"encoder_options": options, "image_size": 32, "tabular_width": 16, "tabular_heads": 2}
    model = Slimp(ModelConfig(encoder="vit_tiny_patch16_224", **shape), fitted(cohort))
    model.save_pretrained(root / name)
    table = embed(model.eval(), cohort)
    table.save(root / "features.parquet")
    return table


def make_probe(folder: Path, table: FeatureTable, root: Path, features: str) -> None:
    """What `slimp probe` leaves."""
    config = dataclasses.replace(QUICK, features=features)
    probe(table, config).save(folder)
    save_reference(folder, table, make_task(table.ids, config).splits[0].train)
    record = {
        "probe": dataclasses.asdict(config),
        "run": str(root / "run"),
        "schema": Cohort.load(root / "cohort").schema.to_dict(),
        "weights_sha256": sha256_of(root / "run" / "model.safetensors"),
    }
    (folder / "config.json").write_text(json.dumps(record))
