"""Training: one loop from top to bottom, of pre-training and of adaptation.

`pretrain` sets patients aside, fits the encodings and builds the model; `train` goes on, step by
step: batch -> embeddings -> nested loss -> gradients -> AdamW; every few epochs it validates on
patients that training never sees. Several processes run it side by side, each with a shard of
every batch's images.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.optim import AdamW
from torch.profiler import record_function

from slimp.data.batches import Batch, PatientBatches, epoch_loader
from slimp.data.cohort import Cohort
from slimp.data.processes import agree, exchange_gradients, process_and_count
from slimp.data.schema import LevelName
from slimp.data.signals import deferred_signals
from slimp.errors import CheckpointError, UserError
from slimp.models.image_encoder import mixes_rows
from slimp.models.nested import Autocast, Slimp
from slimp.models.precision import autocast_on, compile_encoder, suit_to_device
from slimp.training.build_model import build_model
from slimp.training.checkpoint import Checkpoints, Progress
from slimp.training.chunk_size import rows_that_fit
from slimp.training.config import START, PretrainConfig
from slimp.training.devices import fast_precision, make_fabric
from slimp.training.gradient_cache import backward, require_independent_rows
from slimp.training.optimizer import learning_rate, make_optimizer
from slimp.training.parts import BASELINE, PATIENTS, Parts, set_aside
from slimp.training.run_folder import (
    Log,
    open_run,
    require_same_data,
    resolve_settings,
    step_bar,
)
from slimp.training.validation import Validator


def pretrain(
    cohort: Cohort,
    config: PretrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    build: Callable[[Cohort, PretrainConfig], Slimp] = build_model,
    baseline: Mapping[str, Any] | None = None,
) -> Slimp:
    """The pre-trained model, in evaluation mode; everything about the run is left in `out`.

    Args:
        cohort: patients, lesions, images and metadata. Labels are not used, except to spread
            classes evenly over the parts, by the kNN probe during validation, and by
            `config.always_include`.
        config: all settings.
        out: run folder; see the layout in `docs/files.md`.
        resume: continue the run in `out` from its last checkpoint.
        overwrite: replace what is in `out`.
        build: makes the model of the training patients: one with another objective, for a baseline.
        baseline: what that is, for `config.json`: `trainer`, whether it learns `labels`, and its
            options. A run that something else trained is not resumed.

    Raises:
        UserError: `out` is in use, the cohort does not suffice, or the run cannot be resumed.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.

    Example:
        >>> import tempfile
        >>> from slimp.sources.synthetic.cohort import example
        >>> config = PretrainConfig.from_preset("tiny", image_size=32, epochs=1, workers=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model = pretrain(example(20), config, Path(folder, "run"))
        >>> model.image_spec.size
        32
    """
    out = Path(out)
    slimp: dict[str, Any] = {BASELINE: {"trainer": None}}
    record = slimp if baseline is None else {BASELINE: dict(baseline)}
    settings = resolve_settings(
        out, config, resume=resume, overwrite=overwrite, record=record, defaults=slimp
    )
    config = fast_precision(settings)
    parts = set_aside(cohort, config)
    if resume:
        require_same_data(out / "config.json", parts.fingerprint)
    torch.manual_seed(config.seed)
    model = build(parts.train, config)
    return train(model, parts, config, out, resume=resume, record=record if baseline else None)


def train(
    model: Slimp,
    parts: Parts,
    config: PretrainConfig,
    out: Path,
    *,
    resume: bool,
    record: Mapping[str, Mapping[str, Any]] | None = None,
    files: Mapping[str, Mapping[str, Any] | pd.DataFrame] | None = None,
) -> Slimp:
    """The trained model, in evaluation mode: the loop of pre-training and of adaptation.

    Args:
        model: with the weights to begin with; learns in place.
        parts: patients to learn from, and those set aside.
        config: settings that `resolve_settings` allowed, with a number format chosen.
        out: run folder.
        resume: continue the run in `out`.
        record: further sections of `config.json`, which a resumed run must agree on.
        files: further files of the run, by name: JSON objects, or tables for Parquet.

    Raises:
        UserError: the cohort does not suffice, or the run cannot be resumed.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    encodings, size = model.encodings_of(parts.train), config.image_size
    data = PatientBatches(parts.train, encodings, config, image_size=size, views=config.views)
    validate = Validator(parts.train, parts.validation, model, config)

    fabric = make_fabric(config)
    fabric.launch()  # the other processes come to life here, or meet
    device, (process, processes) = fabric.device, process_and_count()
    main, data = process == 0, data.of_process(process, processes)
    fabric.to_device(model)  # fabric.setup would average gradients
    autocast = autocast_on(device, config.precision)
    config = prepare(model, data, config, device, autocast)
    optimizer = make_optimizer(model, config)

    fabric.barrier()  # all have seen the folder as it was
    if main:  # whatever can be refused was refused before
        sections = {**sections_of(config, record or {}), "data": describe(parts)}
        open_run(out, sections, resume=resume, files=files)
        parts.save(out / PATIENTS)
    fabric.barrier()
    checkpoints = Checkpoints(out / "checkpoints", keep=config.keep_checkpoints)
    progress = (checkpoints.load_last(model, optimizer) if resume else None) or Progress()
    require_agreement(progress, out, device)
    total = config.epochs * data.batches_per_epoch
    first_epoch, first_batch = divmod(progress.step, data.batches_per_epoch)
    loader = epoch_loader(
        data,
        range(first_epoch, config.epochs) if not progress.stopped else range(0),
        first_batch=first_batch,
        pin_memory=device.type == "cuda",
    )
    began, lesions = time.perf_counter(), 0
    with (
        checkpoints,
        Log(out, config, progress, main=main) as log,
        step_bar(total, main=main) as bar,
        deferred_signals() as stop,
        closing(loader),
    ):
        for batch in loader:
            rate = learning_rate(progress.step, total, config)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            losses = learn(model, batch.to(device), optimizer, config, autocast, progress.step)

            progress.step += 1
            lesions += batch.lesions
            pace = lesions / (time.perf_counter() - began)
            log.write(
                "step", progress, **losses, **measured(model, data.metadata.encodings, rate, pace)
            )
            bar(progress.step, losses["loss"], pace)
            if progress.step % data.batches_per_epoch == 0:
                progress.epoch += 1
                if progress.epoch % config.validate_every == 0 or progress.step == total:
                    metrics = validate(model, device, autocast)
                    log.write("epoch", progress, **metrics)
                    if is_best(metrics, progress, config) and main:
                        model.save_pretrained(out)
            finished = progress.step == total or progress.stopped
            stopping = agree(float(stop.wanted), device, on="most") > 0
            if finished or stopping or progress.step % config.checkpoint_every_steps == 0:
                progress.log_bytes = log.length
                if main:
                    checkpoints.save(model, optimizer, progress)
            if finished:
                break
            if stopping:
                checkpoints.close()
                fabric.barrier()  # a launcher may end the first process when another has ended
                raise KeyboardInterrupt
    if config.monitor == "last" and main:
        model.save_pretrained(out)
    fabric.barrier()
    return Slimp.from_pretrained(out, image_encoder=model.image_encoder.own)


def learn(
    model: Slimp,
    batch: Batch,
    optimizer: AdamW,
    config: PretrainConfig,
    autocast: Autocast,
    step: int,
) -> dict[str, float]:
    """One step of the optimizer; the losses of the whole batch, as `metrics.jsonl` names them.

    Raises:
        UserError: the loss or the gradient is not a number; the weights are as they were.
    """
    model.train()
    seed = (config.seed, step)
    loss = backward(model, batch, chunk=int(config.chunk), autocast=autocast, seed=seed)
    with record_function("communication"):
        own: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in model.named_parameters():
            own[name.startswith("image_encoder.")].append(parameter)
        exchange_gradients(sharded=own[True], replicated=own[False])
    values = torch.stack([loss.total, *loss.parts.values()]).detach().tolist()
    losses = dict(zip(["loss", *(f"loss_{name}" for name in loss.parts)], values, strict=True))
    with record_function("optimizer"):
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm or math.inf)
        require_finite(losses["loss"], norm.item(), step)
        optimizer.step()
        optimizer.zero_grad()
        model.cap_temperatures()
    return losses


def prepare(
    model: Slimp,
    data: PatientBatches,
    config: PretrainConfig,
    device: torch.device,
    autocast: Autocast,
) -> PretrainConfig:
    """The configuration with `chunk="auto"` resolved; the model is set up for its device.

    Raises:
        UserError: the devices differ in number format, rows cannot be divided among processes, or
            there is nothing to compile the encoder with.
    """
    bf16 = float(config.precision == "bf16")
    if agree(bf16, device, on="least") != agree(bf16, device, on="most"):
        raise UserError("bf16 is fast on some of the devices only: pass --precision 32 or bf16.")
    suit_to_device(model, device, config.precision)
    model.train()
    if data.processes > 1:
        require_independent_rows(model, f"training in {data.processes} processes")
    chunk = config.chunk
    if chunk == "auto" and mixes_rows(model):
        chunk = config.patients * config.lesions * config.images_per_lesion * data.views
    elif chunk == "auto":
        fit = rows_that_fit(model, data.metadata.rows, device, autocast, sharing=data.processes)
        chunk = int(agree(float(fit), device))
    if config.compile:
        compile_encoder(model.image_encoder, device)
    return replace(config, chunk=chunk)


def sections_of(
    config: PretrainConfig, record: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """The settings of a run and the `record`, for `config.json`.

    Where an adapted run began stands in its section `from`, not among the settings.
    """
    left_out = START if "adapt" in record else ()
    settings = {name: x for name, x in asdict(config).items() if name not in left_out}
    return {"pretrain": settings, **record}


def describe(parts: Parts) -> dict[str, Any]:
    """The data that a run learns from, and under which licence, for `config.json`."""
    counts = {f"{name}_patients": len(part.patients) for name, part in parts.named().items()}
    info = parts.train.info
    origin = {name: getattr(info, name) for name in ("source", "licence", "citation")}
    origin |= {"fingerprint": parts.fingerprint, "unit": parts.train.unit}
    return {"cohort": info.name, **counts, "train_images": len(parts.train), **origin}


def require_agreement(progress: Progress, out: Path, device: torch.device) -> None:
    """Raises a CheckpointError unless all processes begin at the same step."""
    step = float(progress.step)
    if agree(step, device, on="least") != agree(step, device, on="most"):
        raise CheckpointError(
            f"{out}: the processes see different checkpoints. The folder must be on a file "
            "system that all nodes share."
        )


def measured(
    model: Slimp, levels: Iterable[LevelName], rate: float, pace: float
) -> dict[str, float | None]:
    """What a step row of `metrics.jsonl` holds besides step, epoch and losses."""
    now = {f"temperature_{name}": model.level(name).temperature().item() for name in levels}
    lesion = now.get("temperature_lesion")
    return {"learning_rate": rate, "temperature": lesion, **now, "lesions_per_second": pace}


def is_best(metrics: dict[str, float], progress: Progress, config: PretrainConfig) -> bool:
    """Whether the weights are the best so far by the monitored metric; may end the run."""
    if config.monitor == "last":
        return False
    lower = config.monitor == "validation_loss"
    return progress.improves(metrics[config.monitor], lower=lower, patience=config.patience)


def require_finite(loss: float, norm: float, step: int) -> None:
    """Raises a UserError if the loss or the gradient is not a number: it would spread."""
    for name, value in (("loss", loss), ("norm of the gradient", norm)):
        if not math.isfinite(value):
            raise UserError(
                f"the {name} became {value} at step {step}. Lower --learning-rate, or pass "
                "--precision 32; --resume continues from the last checkpoint."
            )
