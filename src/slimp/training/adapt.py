"""Continual pre-training: a run meets a cohort with other metadata, and keeps what both share.

The loop is that of pre-training (`train.py`); what differs is where the weights come from, which
of them learn, and that nobody is held out whom an earlier stage learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from slimp.data.cohort import Cohort
from slimp.data.files import read_json, sha256_of
from slimp.data.schema import LEVELS, LevelName
from slimp.errors import CheckpointError, UserError
from slimp.models.adapt_model import Part, Transfer, transfer
from slimp.models.config import ModelConfig
from slimp.models.nested import Slimp
from slimp.training.build_model import fit_encodings
from slimp.training.config import AdaptConfig, PretrainConfig, part_of
from slimp.training.devices import fast_precision
from slimp.training.loop import describe, train
from slimp.training.parts import (
    EARLIER_PATIENTS,
    LEARNED_FROM,
    Parts,
    earlier_parts,
    earlier_table,
    set_aside,
)
from slimp.training.run_folder import settle

TRANSFER = "transfer.json"
"""File of an adapted run: what was kept and trained, and the stages so far."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training of a model: on what, with which loss, and how much of it learned."""

    verb: str
    """pretrain or adapt."""
    cohort: str
    patients: int
    """That it learned from."""
    epochs: int
    weights: Mapping[str, float]
    """Of the levels in the loss; those that the cohort has."""
    trained: str
    """What learned: `all`, or the policy of an adaptation."""
    trainable: int
    """Numbers that learned."""
    parameters: int
    """Numbers in the model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Adaptation:
    """What an adaptation begins with; its model learns later."""

    transfer: Transfer
    stages: tuple[Stage, ...]
    """From the pre-training to this one."""
    known: Mapping[str, int]
    """Part of an earlier stage -> patients of the cohort that were in it."""

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

    Args:
        run: folder of the run to start from; read only.
        cohort: the target, with metadata at any levels, or none.
        config: all settings; the model's are the run's.
        out: folder of the new run.
        resume: continue the adaptation in `out` from its last checkpoint.
        overwrite: replace what is in `out`.
        announce: called once it is known what will learn, before anything does.

    Raises:
        UserError: `run` is no run, `out` is in use, the cohort does not suffice, or the
            adaptation cannot be resumed.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved first.
    """
    run, out = Path(run), Path(out)
    _require_apart(run, out)
    source = Slimp.from_pretrained(run)
    images_alone = not any(level.features for level in cohort.schema.levels)
    settings = config.of_run(source.config, images_alone=images_alone)
    digest = sha256_of(run / "model.safetensors")

    record = {
        "adapt": asdict(replace(config, view_weight=settings.view_weight)),
        "from": {"run": str(run), "weights_sha256": digest},
    }
    settings = settle(out, settings, resume=resume, overwrite=overwrite, record=record)
    settings = fast_precision(settings)
    known = earlier_parts(run)
    parts = set_aside(cohort, settings, known)
    torch.manual_seed(settings.seed)
    moved = transfer(
        source,
        fit_encodings(parts.train, settings),
        part_of(settings, ModelConfig),
        train=config.train,
        rename=config.rename,
    )
    stages = (*stages_of(run, source), _stage(moved, parts, settings, config.train))
    adaptation = Adaptation(transfer=moved, stages=stages, known=_count(cohort, known))
    images = moved.model.image_encoder
    if settings.gradient_checkpointing and any(p.requires_grad for p in images.parameters()):
        images.set_gradient_checkpointing(True)
    if announce is not None:
        announce(adaptation)
    files = {TRANSFER: adaptation.to_dict(), EARLIER_PATIENTS: earlier_table(run)}
    return train(moved.model, parts, settings, out, resume=resume, record=record, files=files)


def stages_of(run: Path, model: Slimp) -> tuple[Stage, ...]:
    """The stages that led to a run, the oldest first; what a run does not say is 0 or 'unknown'.

    Raises:
        UserError: the run's settings are damaged.
    """
    if (run / TRANSFER).is_file():
        try:
            return tuple(Stage(**entry) for entry in read_json(run / TRANSFER)["stages"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{run / TRANSFER}: damaged ({error!r}).") from None
    content = read_json(run / "config.json") if (run / "config.json").is_file() else {}
    data, settings = content.get("data", {}), content.get("pretrain", {})
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    there = ("view", *model.encodings)
    weights = {name: w for name, w in model.config.weights.items() if name in there and w > 0}
    stage = Stage(
        verb="pretrain",
        cohort=data.get("cohort", "unknown"),
        patients=data.get("train_patients", 0),
        epochs=settings.get("epochs", 0),
        weights=weights,
        trained="all",
        trainable=sum(size for size, learns in sizes if learns),
        parameters=sum(size for size, _ in sizes),
    )
    return (stage,)


def left_behind(run: Path) -> tuple[LevelName, ...]:
    """Levels that kept their weights in the last adaptation while the image encoder moved.

    The cohort had nothing for them, so nothing taught them the new image embeddings.

    Raises:
        UserError: what the run says of itself is damaged.
    """
    if not (run / TRANSFER).is_file():
        return ()
    try:
        parts = [Part(**entry) for entry in read_json(run / TRANSFER)["parts"]]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{run / TRANSFER}: damaged ({error!r}).") from None
    if not any(part.trained for part in parts if part.part.startswith("images: ")):
        return ()
    return tuple(
        level
        for level in LEVELS
        if any(part.status == "unused" and part.part.startswith(f"{level}: ") for part in parts)
        and not any(part.trained for part in parts if part.part.startswith(f"{level}: "))
    )


def _stage(moved: Transfer, parts: Parts, settings: PretrainConfig, policy: str) -> Stage:
    there = ("view", *moved.model.encodings_of(parts.train))
    data = describe(parts)
    return Stage(
        verb="adapt",
        cohort=data["cohort"],
        patients=data["train_patients"],
        epochs=settings.epochs,
        weights={name: w for name, w in settings.weights.items() if name in there and w > 0},
        trained=policy,
        trainable=moved.trainable,
        parameters=moved.parameters,
    )


def _count(cohort: Cohort, known: Mapping[str, str]) -> dict[str, int]:
    """Patients of the cohort that the run knows: those it learned from, and those it set aside."""
    parts = cohort.patients["patient_id"].map(known).dropna()
    learned = int(parts.isin(LEARNED_FROM).sum())
    return {"learned_from": learned, "held_out": len(parts) - learned}


def _require_apart(run: Path, out: Path) -> None:
    """Raises if writing to `out` could harm `run`.

    Raises:
        UserError: `out` is the run, or holds it.
    """
    if run.resolve() == out.resolve() or out.resolve() in run.resolve().parents:
        raise UserError(
            f"{out}: is the run to start from, or holds it; the adapted model is a run of its own. "
            "Choose another --out."
        )
