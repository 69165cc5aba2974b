"""Shared by benchmarks of pre-training: arguments, settings, parts, and the baselines."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import numpy as np

from cohorts import add_cohort
from harness import plain_parser
from slimp.data.cohort import Cohort
from slimp.evaluation.linear_probe import majority, metadata_baseline
from slimp.evaluation.probe_config import ProbeConfig
from slimp.evaluation.result import ProbeResult, make_task
from slimp.features.design import RawTable
from slimp.training.config import PretrainConfig
from slimp.training.parts import Parts, set_aside


def shared_parser(
    description: str | None, *, seeds: int, steps: int, preset: str
) -> argparse.ArgumentParser:
    """The arguments of benchmarks of pre-training."""
    parser = plain_parser(description, quick="a minute: tiny model, few steps")
    add_cohort(parser, real="pad-ufes-20")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--steps", type=int, default=steps, help="optimizer steps per run")
    parser.add_argument("--preset", default=preset, choices=["tiny", "small", "vit-s"])
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="settings")
    return parser


def prepare(cohort: Cohort, args: argparse.Namespace, seed: int) -> tuple[PretrainConfig, Parts]:
    """Settings and parts of one seed; epochs are chosen so that the steps add up."""
    changes = {"validation_fraction": 0.0, "held_out_fraction": 0.25, "seed": seed}
    changes |= dict(setting(item) for item in args.set)
    config = PretrainConfig.from_preset(args.preset, **changes)
    parts = set_aside(cohort, config)
    per_epoch = -(-len(parts.train.patients) // config.patients)
    return dataclasses.replace(config, epochs=max(1, round(args.steps / per_epoch))), parts


def setting(item: str) -> tuple[str, Any]:
    """Field and value of FIELD=VALUE; a value that is no JSON is a string."""
    field, _, value = item.partition("=")
    try:
        return field, json.loads(value)
    except json.JSONDecodeError:
        return field, value


def run_baselines(cohort: Cohort, config: PretrainConfig, parts: Parts) -> dict[str, ProbeResult]:
    settings, column = ProbeConfig(seed=config.seed, replicates=1), held_out(cohort, parts)
    task = make_task(cohort.images, settings, column)
    metadata = metadata_baseline(RawTable.of(cohort), task, settings)
    return {"metadata_only": metadata, "majority": majority(task, settings)}


def held_out(cohort: Cohort, parts: Parts) -> np.ndarray:
    assert parts.held_out is not None
    tests = cohort.images["patient_id"].isin(parts.held_out.patients["patient_id"])
    return np.where(tests, "held_out", "train")
