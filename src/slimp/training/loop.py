"""Training: one loop from top to bottom, of pre-training and of adaptation.

`pretrain` sets patients aside; `train` fits the encodings, builds the model, and then, step by
step: batch -> embeddings -> nested loss -> gradients -> AdamW; every few epochs it validates on
patients that training never sees. Several processes run it side by side, each with the patients
that it is dealt of every batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from slimp.data.batches import Batch, PatientBatches, epoch_loader
from slimp.data.cohort import Cohort
from slimp.data.encoding import Encoding
from slimp.data.processes import agree, process_and_count, sum_gradients, summed
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import CheckpointError, UserError
from slimp.models.config import ModelConfig
from slimp.models.losses import NestedLoss
from slimp.models.nested import Autocast, Slimp, mixes_rows
from slimp.models.precision import autocast_on, suit_to_device
from slimp.training.checkpoint import Checkpoints, Progress
from slimp.training.chunk_size import rows_that_fit
from slimp.training.config import PretrainConfig, part_of
from slimp.training.devices import fast_precision, make_fabric
from slimp.training.gradient_cache import backward, require_independent_rows
from slimp.training.parts import PATIENTS, Parts, set_aside
from slimp.training.run_folder import Log, deferred_signals, open_run, settle, step_bar
from slimp.training.stopwatch import Clock, untimed
from slimp.training.validation import Validator


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins from, and what it leaves in its folder besides."""

    build: Callable[[Cohort, PretrainConfig], Slimp]
    """The model to train, from the training part; called once, after seeding."""
    record: Callable[[PretrainConfig], Mapping[str, Mapping[str, Any]]] = lambda config: {}
    """Further sections of `config.json`, given the settings; a resumed run must agree on them."""
    leave: Callable[[Path], None] = lambda out: None
    """Writes further files, once the model is built and the folder is open."""


def pretrain(
    cohort: Cohort,
    config: PretrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
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

    Raises:
        UserError: `out` is in use, the cohort does not suffice, or the run cannot be resumed.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    out = Path(out)
    config = fast_precision(settle(out, config, resume=resume, overwrite=overwrite))
    start = Start(build=build_model)
    return train(set_aside(cohort, config), config, out, start, resume=resume)


def train(parts: Parts, config: PretrainConfig, out: Path, start: Start, *, resume: bool) -> Slimp:
    """The trained model, in evaluation mode: the loop of pre-training and of adaptation.

    Args:
        parts: patients to learn from, and those set aside.
        config: settings that `settle` allowed, with a number format chosen.
        out: run folder.
        start: the weights to begin with.
        resume: continue the run in `out` from its last checkpoint.

    Raises:
        UserError: the cohort does not suffice, or the run cannot be resumed.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    torch.manual_seed(config.seed)
    model = start.build(parts.train, config)
    data = PatientBatches(
        parts.train,
        model.encodings_of(parts.train),
        config,
        image_size=config.image_size,
        views=config.views,
    )
    validate = Validator(parts.train, parts.validation, model, config)

    fabric = make_fabric(config)
    fabric.launch()  # the other processes come to life here, or meet
    device, (process, processes) = fabric.device, process_and_count()
    main, data = process == 0, data.of_process(process, processes)
    # Not fabric.setup: its wrapper refuses frozen dataclasses, and would average gradients.
    fabric.to_device(model)
    autocast = autocast_on(device, config.precision)
    config = prepare(model, data, config, device, autocast)
    optimizer = make_optimizer(model, config)

    fabric.barrier()  # all have seen the folder as it was
    if main:  # whatever can be refused was refused before
        record = {"data": describe(parts), **start.record(config)}
        open_run(out, config, resume=resume, record=record)
        parts.save(out / PATIENTS)
        start.leave(out)
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
        Log(out, progress.log_bytes, main=main) as log,
        step_bar(total, main=main) as bar,
        deferred_signals() as stop,
        closing(loader),
    ):
        for batch in loader:
            rate = learning_rate(progress.step, total, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses = learn(model, batch.to(device), optimizer, config, autocast, progress.step)

            progress.step += 1
            lesions += batch.lesions
            pace = lesions / (time.perf_counter() - began)
            log.write("step", progress, **losses, **measured(model, data.encodings, rate, pace))
            bar(progress.step, losses["loss"], pace)
            if progress.step % data.batches_per_epoch == 0:
                progress.epoch += 1
                if progress.epoch % config.validate_every == 0 or progress.step == total:
                    metrics = validate(model, device, autocast)
                    log.write("epoch", progress, **metrics)
                    keep_best(out, model, metrics, progress, config, main=main)
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
    return Slimp.from_pretrained(out)


def learn(
    model: Slimp,
    batch: Batch,
    optimizer: AdamW,
    config: PretrainConfig,
    autocast: Autocast,
    step: int,
    clock: Clock = untimed,
) -> dict[str, float]:
    """One step of the optimizer; the losses of the whole batch, as `metrics.jsonl` names them.

    Raises:
        UserError: the loss or the gradient is not a number; the weights are as they were.
    """
    model.train()
    process, _ = process_and_count()
    loss = backward(
        model,
        batch,
        config.weights,
        chunk=int(config.chunk),
        autocast=autocast,
        chance=(config.seed, step, process),
        clock=clock,
    )
    with clock("communication"):
        sum_gradients(model.parameters())
        losses = of_all_processes(loss)
    with clock("optimizer"):
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
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
        UserError: several processes, and an encoder or a number format with which they would not
            do what one does.
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
        with as_if_learning(
            model.image_encoder
        ):  # frozen, it keeps nothing, but works all the same
            fit = rows_that_fit(model, data.rows, device, autocast, sharing=data.processes)
        chunk = int(agree(float(fit), device))
    return replace(config, chunk=chunk)


@contextmanager
def as_if_learning(module: nn.Module) -> Iterator[None]:
    """All parameters of a module ask for gradients; afterwards each as before."""
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, learns in before.items():
            parameter.requires_grad_(learns)


def describe(parts: Parts) -> dict[str, Any]:
    """Whom a run learns from, for `config.json`."""
    counts = {f"{name}_patients": len(part.patients) for name, part in parts.named().items()}
    return {"cohort": parts.train.info.name, **counts, "train_images": len(parts.train)}


def build_model(train: Cohort, config: PretrainConfig) -> Slimp:
    """A model whose encodings are fitted on `train`, with the starting weights that are asked for.

    Raises:
        UserError: no level with a weight has metadata.
    """
    encodings = fit_encodings(train, config)
    model = Slimp(part_of(config, ModelConfig), encodings, pretrained=config.pretrained)
    if config.encoder_weights is not None:
        model.image_encoder.load_weights(config.encoder_weights)
    if config.gradient_checkpointing:
        model.image_encoder.set_gradient_checkpointing(True)
    return model


def fit_encodings(train: Cohort, config: PretrainConfig) -> dict[LevelName, Encoding]:
    """Statistics and vocabularies of the training part, per level with metadata.

    Raises:
        UserError: no level with a weight has metadata.
    """
    encodings = {
        name: Encoding.fit(train.schema.level(name), train.tables.of_level(name))
        for name in LEVELS
        if train.schema.level(name).features
    }
    if not config.view_weight and not any(config.weights[name] for name in encodings):
        raise UserError(
            f"the levels with metadata are {list(encodings)}, but their weights are 0: "
            "there is nothing to learn."
        )
    return encodings


def make_optimizer(model: nn.Module, config: PretrainConfig) -> AdamW:
    """AdamW that decays matrices and convolutions, but no bias, norm, embedding or temperature."""
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim in (2, 4) and id(parameter) not in embedded
            (decayed if matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-6)


def learning_rate(step: int, total: int, config: PretrainConfig) -> float:
    """Linear warm-up to the peak, then a cosine to 0 after the last step."""
    warmup = config.warmup * total
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, total - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def require_agreement(progress: Progress, out: Path, device: torch.device) -> None:
    """Raises unless all processes begin at the same step.

    Raises:
        CheckpointError: they see different checkpoints.
    """
    step = float(progress.step)
    if agree(step, device, on="least") != agree(step, device, on="most"):
        raise CheckpointError(
            f"{out}: the processes see different checkpoints. The folder must be on a file "
            "system that all nodes share."
        )


def of_all_processes(loss: NestedLoss) -> dict[str, float]:
    """The loss and that of each level, summed over the processes' shares."""
    names = ["loss", *(f"loss_{name}" for name in loss.parts)]
    shares = torch.stack([loss.total, *loss.parts.values()]).detach()
    return dict(zip(names, summed(shares).tolist(), strict=True))


def measured(
    model: Slimp, levels: Iterable[LevelName], rate: float, pace: float
) -> dict[str, float | None]:
    """What a step row of `metrics.jsonl` holds besides step, epoch and losses."""
    temperatures = {name: model.level(name).temperature().item() for name in levels}
    return {
        "learning_rate": rate,
        "temperature": temperatures.get("lesion"),
        **{f"temperature_{name}": value for name, value in temperatures.items()},
        "lesions_per_second": pace,
    }


def keep_best(
    out: Path,
    model: Slimp,
    metrics: dict[str, float],
    progress: Progress,
    config: PretrainConfig,
    *,
    main: bool = True,
) -> None:
    """Saves the weights if the monitored metric is the best so far; may end the run."""
    if config.monitor == "last":
        return
    value = metrics[config.monitor]
    gain = -1 if config.monitor == "validation_loss" else 1
    if progress.best is None or gain * value > gain * progress.best:
        progress.best, progress.stale = value, 0
        if main:
            model.save_pretrained(out)
        return
    progress.stale += 1
    progress.stopped = config.patience > 0 and progress.stale >= config.patience


def require_finite(loss: float, norm: float, step: int) -> None:
    """Raises if the loss or the gradient is not a number, before it reaches the weights.

    Raises:
        UserError: with the step and the remedy.
    """
    for name, value in (("loss", loss), ("norm of the gradient", norm)):
        if not math.isfinite(value):
            raise UserError(
                f"the {name} became {value} at step {step}. Lower --learning-rate, or pass "
                "--precision 32; --resume continues from the last checkpoint."
            )
