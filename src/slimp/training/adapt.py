"""Continual pre-training of a run on another cohort, whose metadata may differ.

The loop is that of pre-training (`loop.py`). What differs is where the weights come from, which of
them learn, and that patients of earlier stages are never held out.

Example:
    >>> import tempfile
    >>> from slimp.sources.synthetic.cohort import example
    >>> config, model = AdaptConfig(epochs=1, workers=0), ModelConfig(encoder="resnet10t")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Slimp(replace(model, image_size=32), {}).save_pretrained(folder)
    ...     adapted = adapt(folder, example(20), config, folder + "/adapted")
    >>> sorted(adapted.encodings)
    ['lesion', 'patient']
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from slimp.data.cohort import Cohort
from slimp.data.files import read_json, sha256_of
from slimp.errors import CheckpointError, UserError
from slimp.models.adapt_model import Transfer, transfer
from slimp.models.config import ModelConfig
from slimp.models.hub import find_model
from slimp.models.nested import Slimp
from slimp.training.build_model import fit_encodings
from slimp.training.config import AdaptConfig, PretrainConfig, part_of
from slimp.training.devices import fast_precision
from slimp.training.loop import describe, train
from slimp.training.parts import (
    BASELINE,
    EARLIER_PATIENTS,
    LEARNED_FROM,
    Parts,
    earlier_parts,
    earlier_table,
    set_aside,
)
from slimp.training.run_folder import require_same_data, resolve_settings

DEFAULTS = {"adapt": asdict(AdaptConfig())}
"""Of settings that an older version's `config.json` lacks."""
TRANSFER = "transfer.json"
"""File of an adapted run: what was kept and trained, and the stages so far."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training: cohort, loss and what learned."""

    verb: str
    """pretrain, adapt or finetune."""
    cohort: str
    patients: int
    """Number of training patients."""
    epochs: int
    weights: Mapping[str, float]
    """Loss weights of the levels that the cohort has."""
    trained: str
    """`all`, or the policy of an adaptation (`--train`)."""
    trainable: int
    """Number of parameters that learned."""
    parameters: int
    """Number of parameters."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Adaptation:
    """The start of an adaptation, before its model learns."""

    transfer: Transfer
    stages: tuple[Stage, ...]
    """From the pre-training to this one."""
    known: Mapping[str, int]
    """Number of patients in earlier stages: `learned_from` and `held_out`."""

    def to_dict(self) -> dict[str, Any]:
        """The content of `transfer.json`."""
        return {
            "parts": [asdict(part) for part in self.transfer.parts],
            "parameters": self.transfer.parameters,
            "trainable": self.transfer.trainable,
            "stages": [asdict(stage) for stage in self.stages],
            "known_patients": dict(self.known),
        }


def adapt(
    run: str | Path,
    cohort: Cohort,
    config: AdaptConfig,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    announce: Callable[[Adaptation], None] | None = None,
) -> Slimp:
    """The adapted model, in evaluation mode; everything about the new run is left in `out`.

    An example stands at the head of the module.

    Args:
        run: the run to start from, as `Slimp.from_pretrained` takes it; read only.
        cohort: the target, with metadata at any levels, or none.
        config: all settings; the model's are the run's.
        out: folder of the new run.
        resume: continue the adaptation in `out` from its last checkpoint.
        overwrite: replace what is in `out`.
        announce: called before training, with what will learn.

    Raises:
        UserError: `run` is no run, `out` is in use, the cohort does not suffice, or the
            adaptation cannot be resumed.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    run, out = find_model(run), Path(out)
    _require_apart(run, out)
    source = Slimp.from_pretrained(run)
    images_alone = not any(level.features for level in cohort.schema.levels)
    settings = config.of_run(source.config, images_alone=images_alone)
    record = {
        "adapt": asdict(replace(config, view_weight=settings.view_weight)),
        "from": {"run": str(run), "weights_sha256": sha256_of(run / "model.safetensors")},
    }
    settings = resolve_settings(
        out, settings, resume=resume, overwrite=overwrite, record=record, defaults=DEFAULTS
    )
    settings = fast_precision(settings)
    known = earlier_parts(run)
    parts = set_aside(cohort, settings, known)
    if resume:
        require_same_data(out / "config.json", parts.fingerprint)
    torch.manual_seed(settings.seed)
    encodings, model = fit_encodings(parts.train, settings), part_of(settings, ModelConfig)
    moved = transfer(source, encodings, model, train=config.train, rename=config.rename)
    adaptation = Adaptation(
        transfer=moved,
        stages=(*stages_of(run, source), _stage(moved, parts, settings, config.train)),
        known=_count(cohort, known),
    )
    if settings.gradient_checkpointing and config.train != "heads":
        moved.model.image_encoder.set_gradient_checkpointing(True)
    if announce is not None:
        announce(adaptation)
    files: dict[str, Any] = {TRANSFER: adaptation.to_dict(), EARLIER_PATIENTS: earlier_table(run)}
    return train(moved.model, parts, settings, out, resume=resume, record=record, files=files)


def stages_of(run: Path, model: Slimp) -> tuple[Stage, ...]:
    """The stages that led to a run, the oldest first; what a run does not say is 0 or 'unknown'.

    Raises:
        UserError: the run's settings are damaged.
    """
    if (path := run / TRANSFER).is_file():
        try:
            return tuple(Stage(**stage) for stage in read_json(path)["stages"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: damaged ({error!r}). Adapt again.") from None
    content = read_json(run / "config.json") if (run / "config.json").is_file() else {}
    verb = "finetune" if "finetune" in content else "pretrain"
    data, settings = content.get("data", {}), content.get(verb, {})
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    stage = Stage(
        verb=verb,
        cohort=data.get("cohort", "unknown"),
        patients=data.get("train_patients", 0),
        epochs=settings.get("epochs", 0),
        weights={}
        if verb == "finetune" or BASELINE in content
        else _weights(model.config, model.encodings),
        trained="all",
        trainable=sum(size for size, learns in sizes if learns),
        parameters=sum(size for size, _ in sizes),
    )
    return (stage,)


def unrelated(run: Path) -> str | None:
    """Why the projections of a run relate no images and metadata, and what to do; None: they do."""
    settings = run / "config.json"
    content = read_json(settings) if settings.is_file() else {}
    if "finetune" in content:
        return (
            "was fine-tuned for labels, so its projections no longer relate images and metadata. "
            "Take the run that it started from"
        )
    if BASELINE in content:
        return (
            f"is of baseline '{content[BASELINE].get('trainer')}', not of SLIMP, so it has no "
            "projections that relate images and metadata. Take a run of slimp pretrain"
        )
    return None


def _weights(config: ModelConfig, levels: Iterable[str]) -> dict[str, float]:
    """Weights above 0 of the views and of these levels."""
    present = {"view", *levels}
    return {name: w for name, w in config.weights.items() if name in present and w > 0}


def _stage(moved: Transfer, parts: Parts, settings: PretrainConfig, policy: str) -> Stage:
    data = describe(parts)
    return Stage(
        verb="adapt",
        cohort=data["cohort"],
        patients=data["train_patients"],
        epochs=settings.epochs,
        weights=_weights(settings, moved.model.encodings_of(parts.train)),
        trained=policy,
        trainable=moved.trainable,
        parameters=moved.parameters,
    )


def _count(cohort: Cohort, known: Mapping[str, str]) -> dict[str, int]:
    """Patients of the cohort that earlier stages learned from, and that they held out."""
    parts = cohort.patients["patient_id"].map(known).dropna()
    learned = int(parts.isin(LEARNED_FROM).sum())
    return {"learned_from": learned, "held_out": len(parts) - learned}


def _require_apart(run: Path, out: Path) -> None:
    if out.resolve() in (run.resolve(), *run.resolve().parents):
        raise UserError(
            f"{out}: is the run to start from, or contains it; the adapted model is a run of its "
            "own. Choose another --out."
        )
