"""Pre-training: one loop from top to bottom.

`pretrain` sets patients aside, fits the encodings, builds the model, and then, step by step:
batch -> embeddings -> nested loss -> gradients -> AdamW; every few epochs it validates on
patients that training never sees.
"""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor, nn
from torch.optim import AdamW

from slimp.batches import PatientBatches, epoch_loader
from slimp.checkpoint import Checkpoints, Progress
from slimp.cohort import Cohort, require_disjoint
from slimp.config import ModelConfig, PretrainConfig, part_of
from slimp.encoding import Encoding
from slimp.errors import CheckpointError, CohortError, UserError
from slimp.evaluate.online import Validator
from slimp.losses import NestedLoss, nested_loss
from slimp.models.nested import Slimp
from slimp.precision import fast_precision, make_fabric, prefers_fused_attention
from slimp.runs import Log, deferred_signals, open_run, settle, step_bar
from slimp.schema import LEVELS
from slimp.storage import new_file

PARTS = ("train", "validation", "held_out")
OFFICIAL_PARTS = {"train": "train", "validation": "validation", "held_out": "test"}
"""Our name of a part -> its name in a cohort's `split` column."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Patient-disjoint parts of a cohort; validation and held-out may be empty."""

    train: Cohort
    validation: Cohort | None
    held_out: Cohort | None

    def __post_init__(self) -> None:
        require_disjoint(
            **{name: part.patients["patient_id"] for name, part in self.named().items()}
        )

    def named(self) -> dict[str, Cohort]:
        """The parts that are not empty."""
        parts = {"train": self.train, "validation": self.validation, "held_out": self.held_out}
        return {name: part for name, part in parts.items() if part is not None}

    def save(self, path: Path) -> None:
        """Writes `patient_id` and `part` of every patient, so that probes can test honestly.

        Raises:
            CheckpointError: the file is there already, of other patients or parts.
        """
        rows = [
            part.patients[["patient_id"]].assign(part=name) for name, part in self.named().items()
        ]
        table = pd.concat(rows, ignore_index=True)
        if path.is_file() and pd.read_parquet(path).to_dict("list") != table.to_dict("list"):
            raise CheckpointError(
                f"{path}: the run was started with other patients, or other parts of them. Resume "
                "with the same cohort, or choose another --out."
            )
        with new_file(path) as partial:
            table.to_parquet(partial, index=False)


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
    parts = set_aside(cohort, config)
    fabric = make_fabric(config)
    fabric.seed_everything(config.seed, verbose=False)
    model = build_model(parts.train, config)
    model.image_encoder.set_fused_attention(
        prefers_fused_attention(fabric.device, config.precision)
    )
    data = PatientBatches(
        parts.train,
        model.encodings,
        config,
        image_size=config.image_size,
        views=2 if config.view_weight > 0 else 1,
    )
    validate = Validator(parts.train, parts.validation, model, config)
    # Not fabric.setup: its wrapper refuses frozen dataclasses as inputs and outputs.
    fabric.to_device(model)
    optimizer = make_optimizer(model, config)

    open_run(out, config, resume=resume)  # whatever can be refused was refused before
    parts.save(out / "patients.parquet")
    checkpoints = Checkpoints(out / "checkpoints", keep=config.keep_checkpoints)
    progress = (checkpoints.load_last(model, optimizer) if resume else None) or Progress()
    total = config.epochs * data.batches_per_epoch
    first_epoch, first_batch = divmod(progress.step, data.batches_per_epoch)
    loader = epoch_loader(
        data,
        range(first_epoch, config.epochs) if not progress.stopped else range(0),
        first_batch=first_batch,
        pin_memory=fabric.device.type == "cuda",
    )
    began, lesions = time.perf_counter(), 0
    with (
        Log(out, progress.log_bytes) as log,
        step_bar(total) as bar,
        deferred_signals() as stop,
        closing(loader),
    ):
        for batch in loader:
            rate = learning_rate(progress.step, total, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            model.train()
            with fabric.autocast():
                embeddings = model(batch.to(fabric.device))
            loss = nested_loss(embeddings, config.weights)
            loss.total.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            require_finite(loss.total, norm, progress.step)
            optimizer.step()
            optimizer.zero_grad()
            model.cap_temperatures()

            progress.step += 1
            lesions += batch.lesions
            pace = lesions / (time.perf_counter() - began)
            log.write("step", progress, **measured(loss, model, rate, pace))
            bar(progress.step, loss.total, pace)
            if progress.step % data.batches_per_epoch == 0:
                progress.epoch += 1
                if progress.epoch % config.validate_every == 0 or progress.step == total:
                    metrics = validate(model, fabric)
                    log.write("epoch", progress, **metrics)
                    keep_best(out, model, metrics, progress, config)
            finished = progress.step == total or progress.stopped
            if finished or stop.wanted or progress.step % config.checkpoint_every_steps == 0:
                progress.log_bytes = log.length
                checkpoints.save(model, optimizer, progress)
            if finished:
                break
            if stop.wanted:
                raise KeyboardInterrupt
    if config.monitor == "last":
        model.save_pretrained(out)
    return Slimp.from_pretrained(out)


def set_aside(cohort: Cohort, config: PretrainConfig) -> Parts:
    """Training, validation and held-out patients: the cohort's own split, else a random one.

    Raises:
        CohortError: too few patients, or an official split that shares a patient.
    """
    flat = config.hierarchy == "flat"
    cohort = cohort.flatten() if flat else cohort
    if not any(level.features for level in cohort.schema.levels) and not config.view_weight:
        raise CohortError(
            f"cohort '{cohort.info.name}' has no metadata features, so there is nothing to "
            "contrast images with. Add features to its schema, or pass --view-weight 1."
        )
    fractions = {"validation": config.validation_fraction, "held_out": config.held_out_fraction}
    if "split" not in cohort.images:
        fractions = {name: share for name, share in fractions.items() if share > 0}
        fractions = {"train": 1.0 - sum(fractions.values()), **fractions}
        parts = cohort.split(fractions, seed=config.seed)
        return Parts(**{name: parts.get(name) for name in PARTS})  # type: ignore[arg-type]
    official = cohort.images["split"]
    if unknown := set(official.dropna()) - set(OFFICIAL_PARTS.values()):
        raise CohortError(
            f"cohort '{cohort.info.name}': its split column has '{min(unknown)}'; it may only "
            f"have {', '.join(OFFICIAL_PARTS.values())}, or be empty for images to leave out."
        )
    parts = {
        name: cohort.select(official == spelling)
        for name, spelling in OFFICIAL_PARTS.items()
        if (official == spelling).any()
    }
    if "train" not in parts:
        raise CohortError(
            f"cohort '{cohort.info.name}': its split column has no '{OFFICIAL_PARTS['train']}'."
        )
    if "validation" not in parts and config.validation_fraction > 0:
        share = config.validation_fraction
        parts |= parts["train"].split({"train": 1 - share, "validation": share}, seed=config.seed)
    return Parts(**{name: parts.get(name) for name in PARTS})  # type: ignore[arg-type]


def build_model(train: Cohort, config: PretrainConfig) -> Slimp:
    """A model whose encodings are fitted on `train`, with the starting weights that are asked for.

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
    model = Slimp(part_of(config, ModelConfig), encodings, pretrained=config.pretrained)
    if config.encoder_weights is not None:
        model.image_encoder.load_weights(config.encoder_weights)
    if config.gradient_checkpointing:
        model.image_encoder.set_gradient_checkpointing(True)
    return model


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


def measured(loss: NestedLoss, model: Slimp, rate: float, pace: float) -> dict[str, float | None]:
    """What a step row of `metrics.jsonl` holds besides step and epoch."""
    temperatures = {name: model.level(name).temperature().item() for name in model.encodings}
    return {
        "loss": loss.total.item(),
        **{f"loss_{name}": value.item() for name, value in loss.parts.items()},
        "learning_rate": rate,
        "temperature": temperatures.get("lesion"),
        **{f"temperature_{name}": value for name, value in temperatures.items()},
        "lesions_per_second": pace,
    }


def keep_best(
    out: Path, model: Slimp, metrics: dict[str, float], progress: Progress, config: PretrainConfig
) -> None:
    """Saves the weights if the monitored metric is the best so far; may end the run."""
    if config.monitor == "last":
        return
    value = metrics[config.monitor]
    gain = -1 if config.monitor == "validation_loss" else 1
    if progress.best is None or gain * value > gain * progress.best:
        progress.best, progress.stale = value, 0
        model.save_pretrained(out)
        return
    progress.stale += 1
    progress.stopped = config.patience > 0 and progress.stale >= config.patience


def require_finite(loss: Tensor, norm: Tensor, step: int) -> None:
    """Raises if the loss or the gradient is not a number, before it reaches the weights.

    Raises:
        UserError: with the step and the remedy.
    """
    for name, value in (("loss", loss.item()), ("norm of the gradient", norm.item())):
        if not math.isfinite(value):
            raise UserError(
                f"the {name} became {value} at step {step}. Lower --learning-rate, or pass "
                "--precision 32; --resume continues from the last checkpoint."
            )
